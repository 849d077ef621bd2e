//! From what a caller asks to a request that can run, or an error that names the limit and the value.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::ids::{RequestId, TokenId};
use crate::info::ModelInfo;
use crate::request::{GenerateRequest, Prompt, Request, SamplingParams, Task};
use crate::text::ChatTemplate;

/// What no request may exceed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_num_seqs: usize,
    /// Longest sequence that the KV cache holds alone.
    pub max_tokens_alone: usize,
}

/// `seed` is used where the request has none.
pub fn admit(request: GenerateRequest, model: &ModelInfo, limits: Limits, id: RequestId, seed: u64) -> Result<Request> {
    let GenerateRequest { prompt, params, task, priority, cache_salt } = request;
    let params = match task {
        Task::Generate => params,
        Task::Embed => SamplingParams::greedy(0),
    };
    params.validate(model.vocab_size)?;
    check_params(&params, model, limits)?;
    let prompt = tokens(prompt, model)?;
    check_tokens(&prompt, model.vocab_size)?;
    let max_len = max_len(prompt.len(), params.max_tokens, model, limits)?;
    let seed = params.seed.unwrap_or(seed);
    Ok(Request { id, prompt, params: Arc::new(params), task, priority, cache_salt, seed, max_len })
}

fn invalid<T>(message: String) -> Result<T> {
    Err(Error::InvalidRequest(message))
}

fn check_params(params: &SamplingParams, model: &ModelInfo, limits: Limits) -> Result<()> {
    if params.n > limits.max_num_seqs {
        let max = limits.max_num_seqs;
        return invalid(format!(
            "n is {}, but the engine runs at most {max} sequences at once (max_num_seqs)",
            params.n
        ));
    }
    if !params.stop.is_empty() && model.tokenizer.is_none() {
        return invalid("stop strings need a tokenizer, and this model has none; use stop_token_ids".into());
    }
    Ok(())
}

/// The prompt's tokens, not checked yet.
pub fn tokens(prompt: Prompt, model: &ModelInfo) -> Result<Vec<TokenId>> {
    let encode = |text: &str, add_special, parse_special| match &model.tokenizer {
        Some(tokenizer) => tokenizer.encode(text, add_special, parse_special),
        None => invalid("the prompt is text, but this model has no tokenizer; give token ids".into()),
    };
    match prompt {
        Prompt::Tokens(tokens) => Ok(tokens),
        Prompt::Text(text) => encode(&text, true, false),
        // The template writes the special tokens itself, BOS included.
        Prompt::Chat(messages) => encode(&chat_template(model)?.render(&messages, true)?, false, true),
        Prompt::OpenChat(messages) => encode(&chat_template(model)?.render_open(&messages)?, false, true),
    }
}

pub fn chat_template(model: &ModelInfo) -> Result<&ChatTemplate> {
    let none = "this model has no chat template (it may be a base model); give the prompt as text";
    model.chat_template.as_ref().ok_or_else(|| Error::InvalidRequest(none.into()))
}

fn check_tokens(prompt: &[TokenId], vocab_size: usize) -> Result<()> {
    if prompt.is_empty() {
        return invalid("the prompt is empty; it needs at least one token".into());
    }
    match prompt.iter().position(|&token| token as usize >= vocab_size) {
        None => Ok(()),
        Some(at) => {
            invalid(format!("the prompt's token {at} is {}, but the vocabulary has {vocab_size} tokens", prompt[at]))
        }
    }
}

/// Where the sequence ends at the latest. Only the output is ever shortened (finish reason "length").
fn max_len(prompt_len: usize, max_tokens: usize, model: &ModelInfo, limits: Limits) -> Result<usize> {
    let room = |limit: usize, what: &str| match prompt_len + max_tokens.min(1) > limit {
        true if max_tokens == 0 => invalid(format!("the prompt has {prompt_len} tokens, more than {what} {limit}")),
        true => {
            invalid(format!("the prompt has {prompt_len} tokens and needs one more for output, but {what} {limit}"))
        }
        false => Ok(()),
    };
    room(model.max_model_len, "the longest sequence of this model (max_model_len) is")?;
    room(limits.max_tokens_alone, "the KV cache (kv_cache_memory) holds tokens up to")?;
    Ok(prompt_len.saturating_add(max_tokens).min(model.max_model_len).min(limits.max_tokens_alone))
}
