//! What an answer took, in Amazon's words.

use std::time::Duration;

use ferrule_engine::metrics::RequestMetrics;
use serde::Serialize;

/// Of Converse. What was read from the cache is not among the input tokens, but in the total.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenUsage {
    input_tokens: usize,
    output_tokens: usize,
    total_tokens: usize,
    cache_read_input_tokens: usize,
    cache_write_input_tokens: usize,
}

impl From<&RequestMetrics> for TokenUsage {
    fn from(metrics: &RequestMetrics) -> Self {
        Self {
            input_tokens: metrics.num_prompt_tokens - metrics.num_cached_tokens,
            output_tokens: metrics.num_generated_tokens,
            total_tokens: metrics.num_prompt_tokens + metrics.num_generated_tokens,
            cache_read_input_tokens: metrics.num_cached_tokens,
            // Writing to the cache costs nothing here.
            cache_write_input_tokens: 0,
        }
    }
}

/// Of Converse.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    latency_ms: u64,
}

impl From<&RequestMetrics> for Latency {
    fn from(metrics: &RequestMetrics) -> Self {
        Self { latency_ms: millis(metrics.e2e_time) }
    }
}

/// Of the models' own streams; times are in milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InvocationMetrics {
    pub input_token_count: usize,
    pub output_token_count: usize,
    pub invocation_latency: u64,
    first_byte_latency: u64,
    pub cache_read_input_token_count: usize,
}

impl From<&RequestMetrics> for InvocationMetrics {
    fn from(metrics: &RequestMetrics) -> Self {
        Self {
            input_token_count: metrics.num_prompt_tokens - metrics.num_cached_tokens,
            output_token_count: metrics.num_generated_tokens,
            invocation_latency: millis(metrics.e2e_time),
            first_byte_latency: millis(metrics.time_to_first_token.unwrap_or(metrics.e2e_time)),
            cache_read_input_token_count: metrics.num_cached_tokens,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
