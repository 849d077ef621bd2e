//! What callers ask for, and what it becomes once checked.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ids::{RequestId, TokenId};

/// One message of a conversation, as the chat template sees it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ChatMessage {
    pub role: String,
    pub content: String,
}

impl ChatMessage {
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// Tokenized with the special tokens that the tokenizer adds to a text (such as BOS).
    Text(String),
    Tokens(Vec<TokenId>),
    /// Rendered by the model's own chat template, with the generation prompt.
    Chat(Vec<ChatMessage>),
    /// The same up to the end of the last message's text, which the model goes on with.
    OpenChat(Vec<ChatMessage>),
}

/// What a request wants from the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Task {
    #[default]
    Generate,
    /// The last token's final hidden state, normalized to unit length. `max_tokens` is ignored.
    Embed,
}

#[derive(Debug, Clone)]
pub struct GenerateRequest {
    pub prompt: Prompt,
    pub params: SamplingParams,
    pub task: Task,
    /// Higher runs earlier. Equal: first come, first served.
    pub priority: i32,
    /// Prefix-cache hits happen only between requests with the same salt (a tenant).
    pub cache_salt: Option<String>,
}

impl GenerateRequest {
    pub fn new(prompt: Prompt, params: SamplingParams) -> Self {
        Self { prompt, params, task: Task::Generate, priority: 0, cache_salt: None }
    }
}

/// How tokens are chosen and when to stop. Field names and meanings follow vLLM's SamplingParams.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Choices per prompt; they share the prompt's KV blocks.
    pub n: usize,
    /// Most tokens to generate. 0 computes the prompt only (for prompt_logprobs).
    pub max_tokens: usize,
    /// No end-of-text, stop token or stop string before this many tokens.
    pub min_tokens: usize,
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Nucleus: keep the smallest set with this much probability. In (0, 1].
    pub top_p: f32,
    /// Keep tokens at least this likely relative to the most likely one. In [0, 1].
    pub min_p: f32,
    /// Locally typical sampling (Meister et al. 2022). In (0, 1]; 1 is off.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off (CTRL, Keskar et al. 2019).
    pub repetition_penalty: f32,
    /// Subtracted once from tokens already in the output. In [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted per occurrence in the output. In [-2, 2].
    pub frequency_penalty: f32,
    /// Added to a token's logit. In [-100, 100].
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Generation ends before the first of these; it is not part of the text unless `include_stop_str_in_output`.
    pub stop: Vec<String>,
    pub stop_token_ids: Vec<TokenId>,
    pub include_stop_str_in_output: bool,
    /// Go on after the model's end-of-text.
    pub ignore_eos: bool,
    /// None: drawn by the engine per request, and reported.
    pub seed: Option<u64>,
    /// Log-probabilities of the chosen token and this many most likely ones (0: the chosen one alone).
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt, from the second on.
    pub prompt_logprobs: Option<usize>,
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            n: 1,
            max_tokens: 256,
            min_tokens: 0,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            include_stop_str_in_output: false,
            ignore_eos: false,
            seed: None,
            logprobs: None,
            prompt_logprobs: None,
            skip_special_tokens: true,
        }
    }
}

/// Most log-probabilities per token that a request may ask for.
pub const MAX_LOGPROBS: usize = 64;

/// Most stop strings of a request, and most bytes of all of them: every byte of an answer goes through each.
pub const MAX_STOP_STRINGS: usize = 256;
pub const MAX_STOP_BYTES: usize = 16 << 10;

impl SamplingParams {
    pub fn greedy(max_tokens: usize) -> Self {
        Self { temperature: 0.0, max_tokens, ..Self::default() }
    }

    /// Refuses values outside their range, naming field and value.
    pub fn validate(&self, vocab_size: usize) -> Result<()> {
        let within = |name: &str, value: f32, ok: bool, range: &str| match ok && value.is_finite() {
            true => Ok(()),
            false => Err(Error::InvalidRequest(format!("{name} is {value}: it must be in {range}"))),
        };
        let token = |name: &str, id: TokenId| match (id as usize) < vocab_size {
            true => Ok(()),
            false => {
                Err(Error::InvalidRequest(format!("{name} has token {id}, but the vocabulary has {vocab_size} tokens")))
            }
        };
        if self.n == 0 {
            return Err(Error::InvalidRequest("n is 0: it must be at least 1".into()));
        }
        within("temperature", self.temperature, self.temperature >= 0.0, "[0, inf)")?;
        within("top_p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "(0, 1]")?;
        within("min_p", self.min_p, (0.0..=1.0).contains(&self.min_p), "[0, 1]")?;
        within("typical_p", self.typical_p, self.typical_p > 0.0 && self.typical_p <= 1.0, "(0, 1]")?;
        within("repetition_penalty", self.repetition_penalty, self.repetition_penalty > 0.0, "(0, inf)")?;
        within("presence_penalty", self.presence_penalty, self.presence_penalty.abs() <= 2.0, "[-2, 2]")?;
        within("frequency_penalty", self.frequency_penalty, self.frequency_penalty.abs() <= 2.0, "[-2, 2]")?;
        // Every token pays for every entry, and so does who runs beside.
        let few = |name: &str, len: usize| match len <= vocab_size {
            true => Ok(()),
            false => Err(Error::InvalidRequest(format!(
                "{name} has {len} entries, but the vocabulary has {vocab_size} tokens"
            ))),
        };
        few("logit_bias", self.logit_bias.len())?;
        few("stop_token_ids", self.stop_token_ids.len())?;
        for &(id, bias) in &self.logit_bias {
            token("logit_bias", id)?;
            within("logit_bias", bias, bias.abs() <= 100.0, "[-100, 100]")?;
        }
        for &id in &self.stop_token_ids {
            token("stop_token_ids", id)?;
        }
        if self.min_tokens > self.max_tokens {
            return Err(Error::InvalidRequest(format!(
                "min_tokens is {}, more than max_tokens ({})",
                self.min_tokens, self.max_tokens
            )));
        }
        self.validate_stop()?;
        for (name, value) in [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            if let Some(value) = value.filter(|&v| v > MAX_LOGPROBS) {
                return Err(Error::InvalidRequest(format!("{name} is {value}: at most {MAX_LOGPROBS} are given")));
            }
        }
        Ok(())
    }

    fn validate_stop(&self) -> Result<()> {
        let (count, bytes) = (self.stop.len(), self.stop.iter().map(String::len).sum::<usize>());
        let invalid = |message: String| Err(Error::InvalidRequest(message));
        if self.stop.iter().any(String::is_empty) {
            return invalid("stop has an empty string".into());
        }
        if count > MAX_STOP_STRINGS {
            return invalid(format!("stop has {count} strings: at most {MAX_STOP_STRINGS} are taken"));
        }
        if bytes > MAX_STOP_BYTES {
            return invalid(format!("stop has {bytes} bytes in all: at most {MAX_STOP_BYTES} are taken"));
        }
        Ok(())
    }
}

/// A request that was checked: tokens in the vocabulary, parameters in range, a length that can fit.
#[derive(Debug)]
pub struct Request {
    pub id: RequestId,
    /// At least one token.
    pub prompt: Vec<TokenId>,
    pub params: Arc<SamplingParams>,
    pub task: Task,
    pub priority: i32,
    pub cache_salt: Option<String>,
    /// Resolved from `params.seed`, or drawn.
    pub seed: u64,
    /// Longest prompt plus output that this request may reach.
    pub max_len: usize,
}
