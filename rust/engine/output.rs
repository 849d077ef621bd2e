//! What a request sends back.

use crate::error::Error;
use crate::ids::TokenId;
use crate::metrics::RequestMetrics;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// End-of-text, a stop token or a stop string.
    Stop,
    /// `max_tokens` or the model's length.
    Length,
}

impl FinishReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A token's log-probability (natural log, before temperature and truncation, after nothing but softcap).
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    pub token_id: TokenId,
    pub logprob: f32,
    /// 0 is the most likely token.
    pub rank: usize,
    /// The most likely tokens, best first.
    pub top: Vec<(TokenId, f32)>,
}

/// New tokens of one choice. `text` may lag behind `token_ids`: characters that are incomplete, or may
/// become a stop string, are held back.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// The choice, 0 to n-1.
    pub index: usize,
    pub text: String,
    pub token_ids: Vec<TokenId>,
    /// One per token, if asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// Set on the choice's last delta.
    pub finish_reason: Option<FinishReason>,
    /// The stop string or stop token that ended it.
    pub stop_reason: Option<StopReason>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum StopReason {
    Text(String),
    Token(TokenId),
}

#[derive(Debug, Clone)]
pub enum Event {
    /// The prompt is computed: its log-probabilities, from its second token on, if asked for.
    PromptLogprobs(Vec<TokenLogprob>),
    Delta(Delta),
    /// (hidden_size,), unit length.
    Embedding(Vec<f32>),
    /// Always the last event of a request that ended well.
    Done(RequestMetrics),
    /// Always the last event of a request that did not.
    Error(Error),
}

/// One choice of a whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub index: usize,
    pub text: String,
    pub token_ids: Vec<TokenId>,
    pub logprobs: Vec<TokenLogprob>,
    pub finish_reason: FinishReason,
    pub stop_reason: Option<StopReason>,
}

/// A whole answer, collected from events.
#[derive(Debug, Clone)]
pub struct GenerateOutput {
    pub prompt_token_ids: Vec<TokenId>,
    pub prompt_logprobs: Vec<TokenLogprob>,
    pub outputs: Vec<Choice>,
    pub embedding: Option<Vec<f32>>,
    pub metrics: RequestMetrics,
}
