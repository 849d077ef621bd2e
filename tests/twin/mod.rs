//! The same model in the other container: what llama.cpp's converter makes of a Hugging Face folder.

use ferrule_engine::model::{ModelConfig, RopeConfig, RopeScaling, RopeTable, Source};
use ferrule_engine::quant::dequantize;

use crate::containers::GgufFile;

pub fn gguf_of(source: &Source) -> GgufFile {
    let mut file = GgufFile::new();
    // Mistral's files call themselves llama.
    let arch = if source.config.family == "mistral" { "llama" } else { source.config.family };
    metadata(&mut file, arch, &source.config);
    for name in source.checkpoint.tensor_names() {
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
        file.tensor(&gguf_name(name, arch), &shape, &numbers);
    }
    file
}

fn metadata(file: &mut GgufFile, arch: &str, config: &ModelConfig) {
    let key = |key: &str| format!("{arch}.{key}");
    file.text("general.architecture", arch);
    file.u32(&key("block_count"), config.num_layers() as u32);
    file.u32(&key("context_length"), config.max_position as u32);
    file.u32(&key("embedding_length"), config.hidden_size as u32);
    file.u32(&key("feed_forward_length"), config.intermediate_size as u32);
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
    ];
    format!("blk.{layer}.{}", renamed(stem, &names))
}

fn renamed(name: &str, names: &[(&str, &str)]) -> String {
    let (stem, kind) = name.rsplit_once('.').unwrap();
    let (_, new) = names.iter().find(|(old, _)| *old == stem).unwrap();
    format!("{new}.{kind}")
}
