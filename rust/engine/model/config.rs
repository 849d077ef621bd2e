//! A model's architecture as data. Families differ by these fields, not by code.

use crate::config::KvDtype;

/// The feed-forward gate's function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    None,
    /// Positions divided by a factor.
    Linear {
        factor: f32,
    },
    /// Llama 3: low frequencies scaled, high ones kept, a ramp between.
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_max_position: usize,
    },
    /// Per-frequency divisors (GGUF's rope_freqs, Phi-3's long and short factors) and a factor on sine and cosine.
    PerFrequency {
        divisors: Vec<f32>,
        magnitude: f32,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        factor: f32,
        beta_fast: f32,
        beta_slow: f32,
        original_max_position: usize,
        magnitude: f32,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    pub theta: f32,
    /// Leading dimensions of a head that rotate (Phi-3 and others: fewer than head_dim).
    pub dim: usize,
    pub scaling: RopeScaling,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// Positions that a token attends to, itself included. None: all.
    pub window: Option<usize>,
    /// Into `ModelConfig::ropes`.
    pub rope: usize,
}

/// A feed-forward of which each token takes some parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsConfig {
    pub count: usize,
    pub per_token: usize,
    /// The shares of a token's experts sum to 1; else they are what the softmax over all of them says.
    pub normalized: bool,
}

/// Everything that the decoder needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family's name, such as "llama" or "gemma3".
    pub family: &'static str,
    /// What the file calls itself; for people.
    pub name: String,
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// Of each expert, where there are some.
    pub intermediate_size: usize,
    pub experts: Option<ExpertsConfig>,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// Positions that the model was trained for.
    pub max_position: usize,
    pub norm_eps: f32,
    /// Added to every norm weight (Gemma in Hugging Face form stores w - 1; GGUF files have it added).
    pub norm_weight_offset: f32,
    pub activation: Activation,
    pub layers: Vec<LayerConfig>,
    pub ropes: Vec<RopeConfig>,
    /// Multiplies queries before the dot product; usually 1/sqrt(head_dim).
    pub attention_scale: f32,
    /// cap * tanh(x / cap) on attention scores (Gemma 2).
    pub attention_softcap: Option<f32>,
    /// The same on logits.
    pub final_softcap: Option<f32>,
    /// Multiplies embeddings (Gemma: sqrt(hidden_size), in float32 as Transformers does for float32 weights).
    pub embedding_scale: Option<f32>,
    pub qkv_bias: bool,
    /// RMS norm of each query and key head (Qwen3, Gemma 3).
    pub qk_norm: bool,
    /// Norms after attention and after the feed-forward, before the residual add (Gemma 2 and 3).
    pub post_norms: bool,
    /// The output head is the embedding table.
    pub tie_embeddings: bool,
}

impl ModelConfig {
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Feed-forwards that a token goes through in a layer.
    pub fn experts_per_token(&self) -> usize {
        self.experts.map_or(1, |experts| experts.per_token)
    }

    pub fn q_dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    pub fn kv_dim(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// KV bytes of one position in one layer.
    pub fn kv_bytes_per_layer(&self, dtype: KvDtype) -> usize {
        2 * self.num_kv_heads * dtype.head_bytes(self.head_dim)
    }

    /// KV bytes of one position over all layers.
    pub fn kv_bytes_per_token(&self, dtype: KvDtype) -> usize {
        self.num_layers() * self.kv_bytes_per_layer(dtype)
    }
}
