//! Log-probabilities in the three shapes that clients know.

use ferrule_engine::TokenId;
use ferrule_engine::output::TokenLogprob;
use ferrule_engine::text::Tokenizer;
use serde_json::{Map, Value, json};

/// What stands for log-probabilities that are too small for JSON, as in vLLM.
const LEAST: f32 = -9999.0;

fn number(logprob: f32) -> Value {
    f64::from(logprob.max(LEAST)).into()
}

/// A token's bytes; a control token's name.
fn bytes(tokenizer: Option<&Tokenizer>, token: TokenId) -> Vec<u8> {
    match tokenizer {
        None => Vec::new(),
        Some(tokenizer) if tokenizer.is_special(token) => tokenizer.decode(&[token], false).into_bytes(),
        Some(tokenizer) => tokenizer.token_bytes(token).to_vec(),
    }
}

/// A token's text, with U+FFFD for a part of a character.
pub fn token_text(tokenizer: Option<&Tokenizer>, token: TokenId) -> String {
    String::from_utf8_lossy(&bytes(tokenizer, token)).into_owned()
}

/// `logprobs` of a chat's choice.
pub fn of_chat(tokenizer: Option<&Tokenizer>, logprobs: &[TokenLogprob]) -> Value {
    json!({"content": token_logprobs(tokenizer, logprobs), "refusal": null})
}

/// One object per token.
pub fn token_logprobs(tokenizer: Option<&Tokenizer>, logprobs: &[TokenLogprob]) -> Vec<Value> {
    let entry = |token: TokenId, logprob: f32| {
        let bytes = bytes(tokenizer, token);
        json!({"token": String::from_utf8_lossy(&bytes), "logprob": number(logprob), "bytes": bytes})
    };
    let of_token = |token: &TokenLogprob| {
        let mut chosen = entry(token.token_id, token.logprob);
        chosen["top_logprobs"] = token.top.iter().map(|&(token, logprob)| entry(token, logprob)).collect();
        chosen
    };
    logprobs.iter().map(of_token).collect()
}

/// `logprobs` of a completion's choice, which may come in pieces.
#[derive(Debug, Clone, Default)]
pub struct Legacy {
    /// Characters so far.
    offset: usize,
}

impl Legacy {
    /// The first of a prompt's tokens has no log-probability.
    pub fn of_prompt(&mut self, tokenizer: Option<&Tokenizer>, prompt: &[TokenId], rest: &[TokenLogprob]) -> Value {
        let first = prompt.first().map(|&token| (token, None));
        self.piece(tokenizer, first.into_iter().chain(rest.iter().map(|token| (token.token_id, Some(token)))))
    }

    pub fn of_answer(&mut self, tokenizer: Option<&Tokenizer>, logprobs: &[TokenLogprob]) -> Value {
        self.piece(tokenizer, logprobs.iter().map(|token| (token.token_id, Some(token))))
    }

    fn piece<'a>(
        &mut self,
        tokenizer: Option<&Tokenizer>,
        tokens: impl Iterator<Item = (TokenId, Option<&'a TokenLogprob>)>,
    ) -> Value {
        let (mut texts, mut logprobs, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
        for (token, logprob) in tokens {
            let text = token_text(tokenizer, token);
            offsets.push(self.offset);
            self.offset += text.chars().count();
            texts.push(text);
            logprobs.push(logprob.map(|logprob| number(logprob.logprob)));
            tops.push(logprob.map(|logprob| top(tokenizer, logprob)));
        }
        json!({"tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets})
    }

    /// `more` was appended to the lists of `whole`.
    pub fn append(whole: &mut Value, more: Value) {
        let (Value::Object(whole), Value::Object(more)) = (whole, more) else { return };
        for (name, list) in more {
            if let (Some(Value::Array(whole)), Value::Array(list)) = (whole.get_mut(&name), list) {
                whole.extend(list);
            }
        }
    }
}

/// The most likely tokens and the chosen one.
fn top(tokenizer: Option<&Tokenizer>, logprob: &TokenLogprob) -> Map<String, Value> {
    let chosen = (logprob.token_id, logprob.logprob);
    let all = logprob.top.iter().copied().chain([chosen]);
    all.map(|(token, logprob)| (token_text(tokenizer, token), number(logprob))).collect()
}

/// vLLM's `prompt_logprobs`: null for the first token, then a map from token id.
pub fn of_prompt(tokenizer: Option<&Tokenizer>, logprobs: &[TokenLogprob]) -> Value {
    let entry = |token: TokenId, logprob: f32, rank: usize| {
        let text = token_text(tokenizer, token);
        (token.to_string(), json!({"logprob": number(logprob), "rank": rank + 1, "decoded_token": text}))
    };
    let position = |token: &TokenLogprob| {
        let top = token.top.iter().enumerate().map(|(rank, &(token, logprob))| entry(token, logprob, rank));
        let chosen = entry(token.token_id, token.logprob, token.rank);
        Value::Object(top.chain([chosen]).collect())
    };
    [Value::Null].into_iter().chain(logprobs.iter().map(position)).collect()
}
