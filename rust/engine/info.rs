//! What callers may know about the model that an engine runs.

use std::sync::Arc;

use crate::model::ModelConfig;
use crate::text::{ChatTemplate, Tokenizer};

/// What a model is, for callers that translate text.
#[derive(Debug)]
pub struct ModelInfo {
    /// None for the null model.
    pub config: Option<ModelConfig>,
    /// None: only token ids go in and out.
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub chat_template: Option<ChatTemplate>,
    pub vocab_size: usize,
    /// Longest prompt plus output.
    pub max_model_len: usize,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    pub kv_cache_bytes: u64,
    /// Tokens that the KV cache holds.
    pub kv_cache_tokens: usize,
    /// Kernels' tier and threads, for people.
    pub backend: String,
}
