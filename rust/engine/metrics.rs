//! What an answer cost, and what the engine is doing.

use std::time::Duration;

/// Figures of one request. Durations are measured on the engine's thread from the moment of `submit`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestMetrics {
    pub num_prompt_tokens: usize,
    /// Prompt tokens found in the prefix cache.
    pub num_cached_tokens: usize,
    /// Over all choices.
    pub num_generated_tokens: usize,
    pub num_preemptions: usize,
    pub seed: u64,
    /// From submission to the first step that ran this request.
    pub queue_time: Duration,
    /// From submission to the first token.
    pub time_to_first_token: Option<Duration>,
    /// From the first step that ran this request to its first token, or to its end if it wanted none.
    pub prefill_time: Option<Duration>,
    /// From the first token to the last.
    pub decode_time: Duration,
    /// From submission to the end.
    pub e2e_time: Duration,
}

impl RequestMetrics {
    /// Prompt tokens computed (not cached) per second of prefill.
    pub fn prefill_tokens_per_s(&self) -> Option<f64> {
        let seconds = self.prefill_time?.as_secs_f64();
        (seconds > 0.0).then(|| (self.num_prompt_tokens - self.num_cached_tokens) as f64 / seconds)
    }

    /// Tokens after the first per second of decoding.
    pub fn decode_tokens_per_s(&self) -> Option<f64> {
        let seconds = self.decode_time.as_secs_f64();
        (seconds > 0.0 && self.num_generated_tokens > 1).then(|| (self.num_generated_tokens - 1) as f64 / seconds)
    }
}

/// A snapshot of the engine; counters since its start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineStats {
    pub num_running: usize,
    pub num_waiting: usize,
    pub num_blocks: usize,
    /// Blocks that some sequence holds; cached blocks that nobody holds are not counted.
    pub num_used_blocks: usize,
    pub num_steps: u64,
    pub num_prompt_tokens: u64,
    pub num_generated_tokens: u64,
    pub num_preemptions: u64,
    /// Blocks of preempted sequences that went to host memory.
    pub num_swapped_blocks: u64,
    /// In tokens.
    pub prefix_cache_queries: u64,
    pub prefix_cache_hits: u64,
    pub num_finished: u64,
    pub num_cancelled: u64,
}
