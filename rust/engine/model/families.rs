//! The families that run, as a table. A new family that differs by data only is one more row.

use std::path::Path;

use super::Activation;
use crate::error::{Error, Result};

/// The order of the rows of q and k within a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// Rows i and i + head_dim / 2 rotate together.
    HalfSplit,
    /// Rows 2 i and 2 i + 1 rotate together: what GGUF's llama files hold.
    Interleaved,
}

/// Which layers have the sliding window, where the file does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    Every,
    /// The last of each group of this many layers sees everything.
    OneFullIn(usize),
    /// Layers from `max_window_layers` of config.json on.
    FromLayer,
}

#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    /// `general.architecture` of GGUF files.
    pub gguf_arch: Option<&'static str>,
    /// `model_type` in config.json.
    pub model_types: &'static [&'static str],
    /// Transformers' class.
    pub architecture: &'static str,
    /// What Transformers assumes where config.json leaves a field out.
    pub defaults: &'static str,
    pub gguf_row_order: RowOrder,
    pub activation: Activation,
    pub qkv_bias: bool,
    pub qk_norm: bool,
    pub post_norms: bool,
    /// q, k, v are one tensor, gate and up another.
    pub fused: bool,
    /// Hugging Face's names of the experts, for families that have them.
    pub experts: Option<ExpertNames>,
    /// Embeddings are multiplied by sqrt(hidden_size).
    pub scaled_embedding: bool,
    /// Hugging Face folders hold norm weights minus this.
    pub norm_offset: f32,
    pub pattern: Pattern,
    /// RoPE base of the sliding layers, where they have one of their own.
    pub local_theta: Option<f32>,
    /// Layers of the family's member whose attention scale is 1/sqrt(hidden / heads): GGUF files do not say it.
    pub wide_scale_layers: Option<usize>,
    /// For GGUF files that leave them out, as Gemma 2's early ones do.
    pub gguf_window: Option<usize>,
    pub softcaps: Option<Softcaps>,
}

/// Below a layer: `{block}.gate` is the router, `{block}.experts.{e}.{gate}` an expert's gate.
#[derive(Debug, Clone, Copy)]
pub struct ExpertNames {
    pub block: &'static str,
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    /// Where config.json has the size of an expert.
    pub size: &'static str,
    /// Shares of a token's experts always sum to 1; else they do if `norm_topk_prob` says so.
    pub normalized: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Softcaps {
    pub attention: f32,
    pub last: f32,
}

const LLAMA: Family = Family {
    name: "llama",
    gguf_arch: Some("llama"),
    model_types: &["llama"],
    architecture: "LlamaForCausalLM",
    defaults: r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "hidden_act": "silu"}"#,
    gguf_row_order: RowOrder::Interleaved,
    activation: Activation::Silu,
    qkv_bias: false,
    qk_norm: false,
    post_norms: false,
    fused: false,
    experts: None,
    scaled_embedding: false,
    norm_offset: 0.0,
    pattern: Pattern::Every,
    local_theta: None,
    wide_scale_layers: None,
    gguf_window: None,
    softcaps: None,
};

const GEMMA: Family = Family {
    name: "gemma",
    gguf_row_order: RowOrder::HalfSplit,
    activation: Activation::GeluTanh,
    post_norms: true,
    scaled_embedding: true,
    norm_offset: 1.0,
    ..LLAMA
};

pub const FAMILIES: &[Family] = &[
    LLAMA,
    Family {
        name: "mistral",
        // Mistral's GGUF files call themselves llama.
        gguf_arch: None,
        model_types: &["mistral"],
        architecture: "MistralForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "hidden_act": "silu",
            "num_key_value_heads": 8, "sliding_window": 4096}"#,
        ..LLAMA
    },
    Family {
        name: "phi3",
        gguf_arch: Some("phi3"),
        model_types: &["phi3"],
        architecture: "Phi3ForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "hidden_act": "silu",
            "original_max_position_embeddings": 4096}"#,
        gguf_row_order: RowOrder::HalfSplit,
        fused: true,
        ..LLAMA
    },
    Family {
        name: "qwen2",
        gguf_arch: Some("qwen2"),
        model_types: &["qwen2"],
        architecture: "Qwen2ForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "hidden_act": "silu",
            "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}"#,
        gguf_row_order: RowOrder::HalfSplit,
        qkv_bias: true,
        pattern: Pattern::FromLayer,
        ..LLAMA
    },
    Family {
        name: "qwen3",
        gguf_arch: Some("qwen3"),
        model_types: &["qwen3"],
        architecture: "Qwen3ForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "hidden_act": "silu",
            "num_key_value_heads": 32, "head_dim": 128, "sliding_window": 4096, "max_window_layers": 28}"#,
        gguf_row_order: RowOrder::HalfSplit,
        qk_norm: true,
        pattern: Pattern::FromLayer,
        ..LLAMA
    },
    Family {
        name: "mixtral",
        // Mixtral's GGUF files call themselves llama, and have experts.
        gguf_arch: None,
        model_types: &["mixtral"],
        architecture: "MixtralForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-5, "max_position_embeddings": 131072, "hidden_act": "silu",
            "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2}"#,
        experts: Some(ExpertNames {
            block: "block_sparse_moe",
            gate: "w1",
            up: "w3",
            down: "w2",
            size: "intermediate_size",
            normalized: true,
        }),
        ..LLAMA
    },
    Family {
        name: "qwen3moe",
        gguf_arch: Some("qwen3moe"),
        model_types: &["qwen3_moe"],
        architecture: "Qwen3MoeForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "hidden_act": "silu",
            "num_key_value_heads": 4, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
            "sliding_window": 4096, "max_window_layers": 28}"#,
        gguf_row_order: RowOrder::HalfSplit,
        qk_norm: true,
        pattern: Pattern::FromLayer,
        experts: Some(ExpertNames {
            block: "mlp",
            gate: "gate_proj",
            up: "up_proj",
            down: "down_proj",
            size: "moe_intermediate_size",
            normalized: false,
        }),
        ..LLAMA
    },
    Family {
        name: "gemma2",
        gguf_arch: Some("gemma2"),
        model_types: &["gemma2"],
        architecture: "Gemma2ForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 8192, "hidden_activation": "gelu_pytorch_tanh",
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0,
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "tie_word_embeddings": true}"#,
        pattern: Pattern::OneFullIn(2),
        wide_scale_layers: Some(46),
        gguf_window: Some(4096),
        softcaps: Some(Softcaps { attention: 50.0, last: 30.0 }),
        ..GEMMA
    },
    Family {
        name: "gemma3",
        gguf_arch: Some("gemma3"),
        model_types: &["gemma3_text", "gemma3"],
        architecture: "Gemma3ForCausalLM",
        defaults: r#"{"rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "hidden_activation": "gelu_pytorch_tanh",
            "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256,
            "sliding_window": 4096, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
            "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "tie_word_embeddings": true}"#,
        qk_norm: true,
        pattern: Pattern::OneFullIn(6),
        local_theta: Some(10_000.0),
        wide_scale_layers: Some(62),
        ..GEMMA
    },
];

/// The family of a GGUF file's `general.architecture`.
pub fn of_gguf(path: &Path, arch: &str, has_experts: bool) -> Result<&'static Family> {
    let called = |family: &&Family| family.gguf_arch.unwrap_or(LLAMA.name) == arch;
    let alike = |family: &&Family| family.experts.is_some() == has_experts;
    let found = FAMILIES.iter().find(|family| called(family) && alike(family));
    let found = found.or_else(|| FAMILIES.iter().find(called));
    found.ok_or_else(|| unknown(path, arch, FAMILIES.iter().filter_map(|family| family.gguf_arch)))
}

/// The family of a config.json's `model_type`.
pub fn of_config(path: &Path, model_type: &str) -> Result<&'static Family> {
    let found = FAMILIES.iter().find(|family| family.model_types.contains(&model_type));
    found.ok_or_else(|| unknown(path, model_type, FAMILIES.iter().flat_map(|family| family.model_types).copied()))
}

fn unknown<'a>(path: &Path, asked: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let known = known.collect::<Vec<_>>().join(", ");
    Error::unsupported(path, format!("the architecture '{asked}' does not run here; these do: {known}"))
}
