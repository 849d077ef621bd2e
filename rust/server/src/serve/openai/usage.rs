//! How many tokens an answer took.

use ferrule_engine::metrics::RequestMetrics;
use serde::Serialize;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
    completion_tokens_details: CompletionTokensDetails,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct PromptTokensDetails {
    cached_tokens: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct CompletionTokensDetails {
    reasoning_tokens: usize,
}

impl Usage {
    /// Another answer of the same request.
    pub fn add(&mut self, metrics: &RequestMetrics) {
        self.prompt_tokens += metrics.num_prompt_tokens;
        self.completion_tokens += metrics.num_generated_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
        self.prompt_tokens_details.cached_tokens += metrics.num_cached_tokens;
    }
}
