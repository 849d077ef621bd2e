//! One choice of an answer: from tokens to text, and when it ends.

use std::sync::Arc;

use crate::ids::{SequenceId, TokenId};
use crate::output::{Delta, FinishReason, StopReason};
use crate::request::{Request, SamplingParams};
use crate::sample::Sampled;
use crate::text::{Detokenizer, StopStrings, Tokenizer};

type Finish = (FinishReason, Option<StopReason>);

pub struct ChoiceState {
    /// None: not forked yet, or released.
    pub sequence: Option<SequenceId>,
    pub finished: bool,
    num_tokens: usize,
    /// None: only token ids are sent.
    text: Option<ChoiceText>,
}

impl ChoiceState {
    /// All choices of a request, before their first token.
    pub fn all(params: &SamplingParams, tokenizer: Option<&Arc<Tokenizer>>) -> Vec<Self> {
        let stop = (!params.stop.is_empty()).then(|| StopStrings::new(&params.stop));
        let text = |tokenizer: &Arc<Tokenizer>| ChoiceText {
            detokenizer: Detokenizer::new(tokenizer.clone(), params.skip_special_tokens),
            stop: stop.clone(),
        };
        let new = || Self { sequence: None, finished: false, num_tokens: 0, text: tokenizer.map(text) };
        std::iter::repeat_with(new).take(params.n).collect()
    }

    pub fn push(&mut self, index: usize, sampled: Sampled, request: &Request, eos: &[TokenId]) -> Delta {
        let token = sampled.token_id;
        self.num_tokens += 1;
        let by_token = self.finish_of(token, request, eos);
        let (text, by_text) = self.text_of(token, by_token.as_ref(), &request.params);
        let finish = by_text.or(by_token);
        self.finished = finish.is_some();
        let (finish_reason, stop_reason) = finish.unzip();
        let logprobs = sampled.logprob.into_iter().collect();
        Delta { index, text, token_ids: vec![token], logprobs, finish_reason, stop_reason: stop_reason.flatten() }
    }

    /// Whether `token` ends the choice. Before `min_tokens` the sampler gives no token that stops.
    fn finish_of(&self, token: TokenId, request: &Request, eos: &[TokenId]) -> Option<Finish> {
        let params = &request.params;
        if params.stop_token_ids.contains(&token) {
            return Some((FinishReason::Stop, Some(StopReason::Token(token))));
        }
        if eos.contains(&token) && !params.ignore_eos {
            return Some((FinishReason::Stop, None));
        }
        (request.prompt.len() + self.num_tokens >= request.max_len).then_some((FinishReason::Length, None))
    }

    /// The text that can be sent now, and the stop string that it ran into.
    fn text_of(&mut self, token: TokenId, end: Option<&Finish>, params: &SamplingParams) -> (String, Option<Finish>) {
        let Some(text) = &mut self.text else { return (String::new(), None) };
        let stops = matches!(end, Some((FinishReason::Stop, _)));
        let mut piece = match stops && !params.include_stop_str_in_output {
            true => String::new(),
            false => text.detokenizer.push(token),
        };
        if end.is_some() {
            piece += &text.detokenizer.finish();
        }
        // Text of the first `min_tokens` tokens is not searched, so that they cannot end the choice.
        match &mut text.stop {
            Some(stop) if self.num_tokens > params.min_tokens => search(stop, &piece, end.is_some(), params),
            _ => (piece, None),
        }
    }
}

struct ChoiceText {
    detokenizer: Detokenizer,
    stop: Option<StopStrings>,
}

fn search(stop: &mut StopStrings, piece: &str, at_end: bool, params: &SamplingParams) -> (String, Option<Finish>) {
    match stop.push(piece) {
        Ok(mut safe) => {
            if at_end {
                safe += &stop.finish();
            }
            (safe, None)
        }
        Err(hit) => {
            let found = params.stop[hit.index].clone();
            let text = if params.include_stop_str_in_output { hit.text + &found } else { hit.text };
            (text, Some((FinishReason::Stop, Some(StopReason::Text(found)))))
        }
    }
}
