//! What the engine sends back, as frozen Python classes.

use std::time::Duration;

use ferrule_engine::info::ModelInfo as EngineModel;
use ferrule_engine::{FinishReason, GenerateOutput, TokenId, metrics, output};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

/// A Python class with these read-only attributes, equality, and a repr that lists them.
macro_rules! record {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[pyclass(frozen, eq, get_all, module = "ferrule")]
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),* }

        #[pymethods]
        impl $name {
            fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
                let fields = [$(
                    format!("{}={}", stringify!($field), self.$field.clone().into_bound_py_any(py)?.repr()?)
                ),*];
                Ok(format!("{}({})", stringify!($name), fields.join(", ")))
            }
        }
    };
}

record! {
    /// A token's log-probability: natural log, before temperature and truncation.
    TokenLogprob {
        token_id: TokenId,
        logprob: f32,
        /// 0 is the most likely token.
        rank: usize,
        /// The most likely tokens with their log-probabilities, best first.
        top: Vec<(TokenId, f32)>,
    }
}

record! {
    /// One choice of an answer.
    CompletionOutput {
        index: usize,
        text: String,
        token_ids: Vec<TokenId>,
        /// One per token, if asked for.
        logprobs: Option<Vec<TokenLogprob>>,
        /// "stop" or "length".
        finish_reason: &'static str,
        /// The stop string or stop token that ended it.
        stop_reason: Option<StopReason>,
    }
}

record! {
    /// The answer to one prompt.
    RequestOutput {
        /// The prompt's text as the model saw it; None for a prompt of token ids.
        prompt: Option<String>,
        prompt_token_ids: Vec<TokenId>,
        /// From the prompt's second token on, if asked for.
        prompt_logprobs: Option<Vec<TokenLogprob>>,
        outputs: Vec<CompletionOutput>,
        metrics: RequestMetrics,
    }
}

record! {
    /// New tokens of one choice. The text may lag behind the tokens: incomplete characters, and what may become
    /// a stop string, are held back.
    Delta {
        index: usize,
        text: String,
        token_ids: Vec<TokenId>,
        /// One per token, if asked for.
        logprobs: Option<Vec<TokenLogprob>>,
        /// "stop" or "length" on the choice's last delta.
        finish_reason: Option<&'static str>,
        stop_reason: Option<StopReason>,
    }
}

record! {
    /// What one request cost. Times are in seconds, from the moment of submission unless said otherwise.
    RequestMetrics {
        num_prompt_tokens: usize,
        /// Prompt tokens found in the prefix cache.
        num_cached_tokens: usize,
        /// Over all choices.
        num_generated_tokens: usize,
        num_preemptions: usize,
        /// Of the random numbers: the one given, or the one drawn.
        seed: u64,
        queue_time: f64,
        time_to_first_token: Option<f64>,
        /// From the first step that ran the request to its first token.
        prefill_time: Option<f64>,
        /// From the first token to the last.
        decode_time: f64,
        e2e_time: f64,
        prefill_tokens_per_s: Option<f64>,
        decode_tokens_per_s: Option<f64>,
    }
}

record! {
    /// A snapshot of the engine; counters since its start.
    EngineStats {
        num_running: usize,
        num_waiting: usize,
        num_blocks: usize,
        /// Blocks that some sequence holds.
        num_used_blocks: usize,
        num_steps: u64,
        num_prompt_tokens: u64,
        num_generated_tokens: u64,
        num_preemptions: u64,
        /// Blocks of preempted sequences that went to host memory.
        num_swapped_blocks: u64,
        /// In tokens.
        prefix_cache_queries: u64,
        prefix_cache_hits: u64,
        num_finished: u64,
        num_cancelled: u64,
    }
}

record! {
    /// What was loaded.
    ModelInfo {
        /// What the file calls itself; "null" for the null model.
        name: String,
        family: Option<&'static str>,
        vocab_size: usize,
        hidden_size: Option<usize>,
        num_layers: Option<usize>,
        /// Longest prompt plus output, in tokens.
        max_model_len: usize,
        /// Bytes of packed weights.
        weight_bytes: u64,
        kv_cache_bytes: u64,
        /// Tokens that the KV cache holds.
        kv_cache_tokens: usize,
        has_tokenizer: bool,
        has_chat_template: bool,
        /// Kernels' tier and threads.
        backend: String,
    }
}

/// In Python: a str or an int.
#[derive(Debug, Clone, PartialEq, IntoPyObject)]
pub enum StopReason {
    Text(String),
    Token(TokenId),
}

impl From<output::StopReason> for StopReason {
    fn from(reason: output::StopReason) -> Self {
        match reason {
            output::StopReason::Text(text) => Self::Text(text),
            output::StopReason::Token(id) => Self::Token(id),
        }
    }
}

impl From<output::TokenLogprob> for TokenLogprob {
    fn from(of: output::TokenLogprob) -> Self {
        Self { token_id: of.token_id, logprob: of.logprob, rank: of.rank, top: of.top }
    }
}

/// None when there are none: they were not asked for.
pub fn logprobs(of: Vec<output::TokenLogprob>) -> Option<Vec<TokenLogprob>> {
    (!of.is_empty()).then(|| of.into_iter().map(Into::into).collect())
}

impl From<output::Choice> for CompletionOutput {
    fn from(of: output::Choice) -> Self {
        Self {
            index: of.index,
            text: of.text,
            token_ids: of.token_ids,
            logprobs: logprobs(of.logprobs),
            finish_reason: of.finish_reason.as_str(),
            stop_reason: of.stop_reason.map(Into::into),
        }
    }
}

impl From<output::Delta> for Delta {
    fn from(of: output::Delta) -> Self {
        Self {
            index: of.index,
            text: of.text,
            token_ids: of.token_ids,
            logprobs: logprobs(of.logprobs),
            finish_reason: of.finish_reason.map(FinishReason::as_str),
            stop_reason: of.stop_reason.map(Into::into),
        }
    }
}

impl RequestOutput {
    pub fn new(prompt: Option<String>, of: GenerateOutput) -> Self {
        Self {
            prompt,
            prompt_token_ids: of.prompt_token_ids,
            prompt_logprobs: logprobs(of.prompt_logprobs),
            outputs: of.outputs.into_iter().map(Into::into).collect(),
            metrics: of.metrics.into(),
        }
    }
}

impl From<metrics::RequestMetrics> for RequestMetrics {
    fn from(of: metrics::RequestMetrics) -> Self {
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        Self {
            num_prompt_tokens: of.num_prompt_tokens,
            num_cached_tokens: of.num_cached_tokens,
            num_generated_tokens: of.num_generated_tokens,
            num_preemptions: of.num_preemptions,
            seed: of.seed,
            queue_time: of.queue_time.as_secs_f64(),
            time_to_first_token: seconds(of.time_to_first_token),
            prefill_time: seconds(of.prefill_time),
            decode_time: of.decode_time.as_secs_f64(),
            e2e_time: of.e2e_time.as_secs_f64(),
            prefill_tokens_per_s: of.prefill_tokens_per_s(),
            decode_tokens_per_s: of.decode_tokens_per_s(),
        }
    }
}

impl From<metrics::EngineStats> for EngineStats {
    fn from(of: metrics::EngineStats) -> Self {
        Self {
            num_running: of.num_running,
            num_waiting: of.num_waiting,
            num_blocks: of.num_blocks,
            num_used_blocks: of.num_used_blocks,
            num_steps: of.num_steps,
            num_prompt_tokens: of.num_prompt_tokens,
            num_generated_tokens: of.num_generated_tokens,
            num_preemptions: of.num_preemptions,
            num_swapped_blocks: of.num_swapped_blocks,
            prefix_cache_queries: of.prefix_cache_queries,
            prefix_cache_hits: of.prefix_cache_hits,
            num_finished: of.num_finished,
            num_cancelled: of.num_cancelled,
        }
    }
}

impl From<&EngineModel> for ModelInfo {
    fn from(of: &EngineModel) -> Self {
        let config = of.config.as_ref();
        Self {
            name: config.map_or_else(|| "null".into(), |config| config.name.clone()),
            family: config.map(|config| config.family),
            vocab_size: of.vocab_size,
            hidden_size: config.map(|config| config.hidden_size),
            num_layers: config.map(|config| config.num_layers()),
            max_model_len: of.max_model_len,
            weight_bytes: of.weight_bytes,
            kv_cache_bytes: of.kv_cache_bytes,
            kv_cache_tokens: of.kv_cache_tokens,
            has_tokenizer: of.tokenizer.is_some(),
            has_chat_template: of.chat_template.is_some(),
            backend: of.backend.clone(),
        }
    }
}
