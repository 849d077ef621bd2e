//! The same model in the other container: what llama.cpp's converter makes of a Hugging Face folder.

use ferrule_engine::model::{ModelConfig, RopeConfig, RopeScaling, RopeTable, Source};
use ferrule_engine::quant::dequantize;

use crate::containers::GgufFile;

/// The number of a tensor's type, and its bytes in it.
pub type Encoded = (u32, Vec<u8>);

pub fn gguf_of(source: &Source) -> GgufFile {
    gguf_with(source, &|_, _| None)
}

/// With tensors as `encode` has them, by their names and numbers. None: float32.
pub fn gguf_with(source: &Source, encode: &dyn Fn(&str, &[f32]) -> Option<Encoded>) -> GgufFile {
    let mut file = GgufFile::new();
    // The files of Mistral's models call themselves llama.
    let arch = match source.config.family {
        "mistral" | "mixtral" => "llama",
        family => family,
    };
    metadata(&mut file, arch, &source.config);
    tokenizer(&mut file, source.config.vocab_size);
    let mut add = |name: &str, shape: &[u64], numbers: &[f32]| match encode(name, numbers) {
        None => drop(file.tensor(name, shape, numbers)),
        Some((kind, bytes)) => drop(file.raw_tensor(name, shape, kind, &bytes)),
    };
    let is_of_expert = |name: &&str| name.contains(".experts.");
    for name in source.checkpoint.tensor_names().into_iter().filter(|name| !is_of_expert(name)) {
        let view = source.checkpoint.tensor(name).unwrap();
        let mut numbers = vec![0.0; view.shape.iter().product()];
        dequantize(view.dtype, &view.bytes, &mut numbers);
        if name.contains("norm") && arch.starts_with("gemma") {
            numbers.iter_mut().for_each(|weight| *weight += 1.0);
        }
        if arch == "llama" && (name.contains("q_proj") || name.contains("k_proj")) {
            numbers = interleaved(&numbers, source.config.head_dim, view.shape[1]);
        }
        let shape: Vec<u64> = view.shape.iter().map(|&side| side as u64).collect();
        add(&gguf_name(name, arch), &shape, &numbers);
    }
    for (layer, part) in experts(source) {
        let expert = |expert: usize| {
            let names = [
                format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{}.weight", part.mixtral),
                format!("model.layers.{layer}.mlp.experts.{expert}.{}.weight", part.qwen3),
            ];
            names.iter().find_map(|name| source.checkpoint.floats(name).ok()).expect("the expert is there")
        };
        let count = source.config.experts.expect("it has experts").count;
        let numbers: Vec<f32> = (0..count).flat_map(expert).collect();
        let (hidden, size) = (source.config.hidden_size as u64, source.config.intermediate_size as u64);
        let sides = if part.gguf == "ffn_down_exps" { [hidden, size] } else { [size, hidden] };
        add(&format!("blk.{layer}.{}.weight", part.gguf), &[count as u64, sides[0], sides[1]], &numbers);
    }
    file
}

/// What an expert's matrix is called.
#[derive(Clone, Copy)]
struct ExpertPart {
    gguf: &'static str,
    mixtral: &'static str,
    qwen3: &'static str,
}

/// The parts of the experts of all layers: each is one tensor.
fn experts(source: &Source) -> Vec<(usize, ExpertPart)> {
    let parts = [
        ExpertPart { gguf: "ffn_gate_exps", mixtral: "w1", qwen3: "gate_proj" },
        ExpertPart { gguf: "ffn_up_exps", mixtral: "w3", qwen3: "up_proj" },
        ExpertPart { gguf: "ffn_down_exps", mixtral: "w2", qwen3: "down_proj" },
    ];
    let layers = if source.config.experts.is_some() { source.config.num_layers() } else { 0 };
    (0..layers).flat_map(|layer| parts.map(|part| (layer, part))).collect()
}

/// Pieces that no text is made of.
fn tokenizer(file: &mut GgufFile, vocab_size: usize) {
    let tokens: Vec<String> = (0..vocab_size).map(|id| format!("<{id}>")).collect();
    file.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", "gpt-2").texts("tokenizer.ggml.merges", &[]);
    file.texts("tokenizer.ggml.tokens", &tokens.iter().map(String::as_str).collect::<Vec<_>>());
    file.ints("tokenizer.ggml.token_type", &vec![1; vocab_size]);
}

fn metadata(file: &mut GgufFile, arch: &str, config: &ModelConfig) {
    let key = |key: &str| format!("{arch}.{key}");
    file.text("general.architecture", arch);
    file.u32(&key("block_count"), config.num_layers() as u32);
    file.u32(&key("context_length"), config.max_position as u32);
    file.u32(&key("embedding_length"), config.hidden_size as u32);
    file.u32(&key("feed_forward_length"), config.intermediate_size as u32);
    if let Some(experts) = config.experts {
        file.u32(&key("expert_count"), experts.count as u32);
        file.u32(&key("expert_used_count"), experts.per_token as u32);
        file.u32(&key("expert_feed_forward_length"), config.intermediate_size as u32);
    }
    file.u32(&key("attention.head_count"), config.num_heads as u32);
    file.u32(&key("attention.head_count_kv"), config.num_kv_heads as u32);
    file.u32(&key("attention.key_length"), config.head_dim as u32);
    file.u32(&key("attention.value_length"), config.head_dim as u32);
    file.f32(&key("attention.layer_norm_rms_epsilon"), config.norm_eps);
    file.f32(&key("attention.scale"), config.attention_scale);
    file.f32(&key("attn_logit_softcapping"), config.attention_softcap.unwrap_or(0.0));
    file.f32(&key("final_logit_softcapping"), config.final_softcap.unwrap_or(0.0));
    if let Some(window) = config.layers.iter().find_map(|layer| layer.window) {
        file.u32(&key("attention.sliding_window"), window as u32);
    }
    if arch == "gemma3" {
        let slides: Vec<bool> = config.layers.iter().map(|layer| layer.window.is_some()).collect();
        file.flags(&key("attention.sliding_window_pattern"), &slides);
    }
    rope(file, arch, &config.ropes[0], config.max_position);
}

fn rope(file: &mut GgufFile, arch: &str, rope: &RopeConfig, max_position: usize) {
    let key = |key: &str| format!("{arch}.rope.{key}");
    file.f32(&key("freq_base"), rope.theta).u32(&key("dimension_count"), rope.dim as u32);
    match &rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            file.text(&key("scaling.type"), "linear").f32(&key("scaling.factor"), *factor);
        }
        RopeScaling::Llama3 { .. } => {
            let plain = RopeTable::new(&RopeConfig { scaling: RopeScaling::None, ..rope.clone() });
            let scaled = RopeTable::new(rope);
            let divisors: Vec<f32> = plain.inv_freq.iter().zip(&scaled.inv_freq).map(|(a, b)| a / b).collect();
            file.tensor("rope_freqs.weight", &[divisors.len() as u64], &divisors);
        }
        RopeScaling::PerFrequency { divisors, magnitude } => {
            file.f32(&key("scaling.attn_factor"), *magnitude);
            file.u32(&key("scaling.original_context_length"), max_position as u32 / 2);
            file.tensor("rope_factors_long.weight", &[divisors.len() as u64], divisors);
            file.tensor("rope_factors_short.weight", &[divisors.len() as u64], &vec![1.0; divisors.len()]);
        }
        RopeScaling::Yarn { factor, original_max_position, .. } => {
            file.text(&key("scaling.type"), "yarn").f32(&key("scaling.factor"), *factor);
            file.u32(&key("scaling.original_context_length"), *original_max_position as u32);
        }
    }
}

/// Rows i and i + head_dim / 2 of each head become neighbours.
fn interleaved(numbers: &[f32], head_dim: usize, cols: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for head in numbers.chunks(head_dim * cols) {
        let (first, second) = head.split_at(head.len() / 2);
        for (a, b) in first.chunks(cols).zip(second.chunks(cols)) {
            out.extend_from_slice(a);
            out.extend_from_slice(b);
        }
    }
    out
}

fn gguf_name(name: &str, arch: &str) -> String {
    let Some(rest) = name.strip_prefix("model.layers.") else {
        let names = [("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];
        return renamed(name, &names);
    };
    let after_attention = if arch.starts_with("gemma") { "post_attention_norm" } else { "ffn_norm" };
    let (layer, stem) = rest.split_once('.').unwrap();
    let names = [
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", after_attention),
        ("pre_feedforward_layernorm", "ffn_norm"),
        ("post_feedforward_layernorm", "post_ffw_norm"),
        ("self_attn.qkv_proj", "attn_qkv"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("mlp.gate", "ffn_gate_inp"),
        ("block_sparse_moe.gate", "ffn_gate_inp"),
    ];
    format!("blk.{layer}.{}", renamed(stem, &names))
}

fn renamed(name: &str, names: &[(&str, &str)]) -> String {
    let (stem, kind) = name.rsplit_once('.').unwrap();
    let (_, new) = names.iter().find(|(old, _)| *old == stem).unwrap();
    format!("{new}.{kind}")
}
