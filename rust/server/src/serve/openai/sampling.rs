//! How tokens are chosen: the fields that both kinds of requests have.

use std::collections::BTreeMap;

use ferrule_engine::{Prompt, SamplingParams, TokenId};
use serde::Deserialize;

use super::request::OneOrMany;
use crate::serve::ask::Ask;
use crate::serve::error::{Result, ServeError};

#[derive(Debug, Default, Deserialize)]
pub struct Sampling {
    n: Option<usize>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    min_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    /// -1 and 0 keep all.
    top_k: Option<i64>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    stop: Option<OneOrMany>,
    stop_token_ids: Option<Vec<TokenId>>,
    include_stop_str_in_output: Option<bool>,
    ignore_eos: Option<bool>,
    seed: Option<i64>,
    skip_special_tokens: Option<bool>,
    pub prompt_logprobs: Option<i64>,
    priority: Option<i32>,
    cache_salt: Option<String>,
}

impl Sampling {
    pub fn n(&self) -> usize {
        self.n.unwrap_or(1)
    }

    /// The engine's parameters. `max_tokens`: unless the request says; `logprobs`: of generated tokens.
    pub fn params(&self, max_tokens: usize, logprobs: Option<usize>) -> Result<SamplingParams> {
        let default = SamplingParams::default();
        Ok(SamplingParams {
            n: self.n(),
            max_tokens: self.max_completion_tokens.or(self.max_tokens).unwrap_or(max_tokens),
            min_tokens: self.min_tokens.unwrap_or(0),
            temperature: self.temperature.unwrap_or(default.temperature),
            top_p: self.top_p.unwrap_or(default.top_p),
            top_k: self.top_k()?,
            min_p: self.min_p.unwrap_or(default.min_p),
            typical_p: self.typical_p.unwrap_or(default.typical_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(default.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(default.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(default.frequency_penalty),
            logit_bias: self.logit_bias()?,
            stop: self.stop.clone().map(Into::into).unwrap_or_default(),
            stop_token_ids: self.stop_token_ids.clone().unwrap_or_default(),
            include_stop_str_in_output: self.include_stop_str_in_output.unwrap_or(false),
            ignore_eos: self.ignore_eos.unwrap_or(false),
            // A negative seed is a seed like any other.
            seed: self.seed.map(|seed| seed as u64),
            logprobs,
            prompt_logprobs: self.prompt_logprobs()?,
            skip_special_tokens: self.skip_special_tokens.unwrap_or(default.skip_special_tokens),
        })
    }

    pub fn ask(&self, prompt: Prompt, params: SamplingParams) -> Ask {
        Ask { prompt, params, priority: self.priority.unwrap_or(0), cache_salt: self.cache_salt.clone() }
    }

    fn top_k(&self) -> Result<usize> {
        match self.top_k.unwrap_or(0) {
            -1 => Ok(0),
            k => usize::try_from(k).map_err(|_| ServeError::invalid("top_k", format!("top_k is {k}: at least -1"))),
        }
    }

    fn prompt_logprobs(&self) -> Result<Option<usize>> {
        let bad = |n: i64| ServeError::invalid("prompt_logprobs", format!("prompt_logprobs is {n}: at least 0"));
        self.prompt_logprobs.map(|n| usize::try_from(n).map_err(|_| bad(n))).transpose()
    }

    fn logit_bias(&self) -> Result<Vec<(TokenId, f32)>> {
        let entry = |(token, bias): (&String, &f32)| match token.parse() {
            Ok(token) => Ok((token, *bias)),
            Err(_) => Err(ServeError::invalid("logit_bias", format!("logit_bias has '{token}', which is no token id"))),
        };
        self.logit_bias.iter().flatten().map(entry).collect()
    }
}
