//! What an answer took, as responses tell it.

use std::time::Duration;

use ferrule_engine::metrics::RequestMetrics;
use serde::Serialize;

/// Times count from the moment when the request was enqueued; `ttft_ms` has the queue in it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Timing {
    pub queue_ms: f64,
    pub ttft_ms: Option<f64>,
    pub prefill_ms: Option<f64>,
    pub decode_ms: f64,
    pub total_ms: f64,
    pub prefill_tokens_per_s: Option<f64>,
    pub decode_tokens_per_s: Option<f64>,
    pub num_preemptions: usize,
    /// The seed that gives this answer again.
    pub seed: u64,
}

impl From<&RequestMetrics> for Timing {
    fn from(metrics: &RequestMetrics) -> Self {
        Self {
            queue_ms: millis(metrics.queue_time),
            ttft_ms: metrics.time_to_first_token.map(millis),
            prefill_ms: metrics.prefill_time.map(millis),
            decode_ms: millis(metrics.decode_time),
            total_ms: millis(metrics.e2e_time),
            prefill_tokens_per_s: metrics.prefill_tokens_per_s().map(round),
            decode_tokens_per_s: metrics.decode_tokens_per_s().map(round),
            num_preemptions: metrics.num_preemptions,
            seed: metrics.seed,
        }
    }
}

fn millis(time: Duration) -> f64 {
    round(time.as_secs_f64() * 1e3)
}

/// To thousandths.
fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
