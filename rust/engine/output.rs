//! What a request sends back.

use crate::error::{Error, Result};
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

impl Delta {
    /// Nothing new of choice `index`.
    pub fn new(index: usize) -> Self {
        let (text, token_ids, logprobs) = (String::new(), Vec::new(), Vec::new());
        Self { index, text, token_ids, logprobs, finish_reason: None, stop_reason: None }
    }

    /// What came next of the same choice.
    pub fn extend(&mut self, next: Delta) {
        self.text += &next.text;
        self.token_ids.extend(next.token_ids);
        self.logprobs.extend(next.logprobs);
        self.finish_reason = next.finish_reason;
        self.stop_reason = next.stop_reason;
    }
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

/// Puts the events of one request together.
#[derive(Debug, Default)]
pub struct Collector {
    prompt_token_ids: Vec<TokenId>,
    prompt_logprobs: Vec<TokenLogprob>,
    choices: Vec<Delta>,
    embedding: Option<Vec<f32>>,
}

impl Collector {
    pub fn new(prompt_token_ids: Vec<TokenId>) -> Self {
        Self { prompt_token_ids, ..Self::default() }
    }

    /// The whole answer, or its error, once `event` is the last one.
    pub fn push(&mut self, event: Event) -> Option<Result<GenerateOutput>> {
        match event {
            Event::PromptLogprobs(logprobs) => self.prompt_logprobs = logprobs,
            Event::Delta(delta) => self.push_delta(delta),
            Event::Embedding(embedding) => self.embedding = Some(embedding),
            Event::Done(metrics) => return Some(std::mem::take(self).finish(metrics)),
            Event::Error(error) => return Some(Err(error)),
        }
        None
    }

    fn push_delta(&mut self, delta: Delta) {
        while self.choices.len() <= delta.index {
            self.choices.push(Delta::new(self.choices.len()));
        }
        self.choices[delta.index].extend(delta);
    }

    fn finish(self, metrics: RequestMetrics) -> Result<GenerateOutput> {
        let Self { prompt_token_ids, prompt_logprobs, choices, embedding } = self;
        let outputs = choices.into_iter().map(Choice::try_from).collect::<Result<_>>()?;
        Ok(GenerateOutput { prompt_token_ids, prompt_logprobs, outputs, embedding, metrics })
    }
}

impl TryFrom<Delta> for Choice {
    type Error = Error;

    fn try_from(delta: Delta) -> Result<Self> {
        let Delta { index, text, token_ids, logprobs, finish_reason, stop_reason } = delta;
        let finish_reason = finish_reason
            .ok_or_else(|| Error::Internal(format!("choice {index} was not finished when its request was done")))?;
        Ok(Self { index, text, token_ids, logprobs, finish_reason, stop_reason })
    }
}
