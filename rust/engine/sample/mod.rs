//! From a row of logits to a token. Pure: the same row, parameters and tokens give the same token.

use crate::ids::TokenId;
use crate::output::TokenLogprob;
use crate::request::SamplingParams;

/// What a sequence knows when its next token is chosen.
#[derive(Debug, Clone, Copy)]
pub struct SampleContext<'a> {
    pub params: &'a SamplingParams,
    /// The choice's own seed: see [`choice_seed`].
    pub seed: u64,
    pub prompt: &'a [TokenId],
    pub output: &'a [TokenId],
    /// The model's end-of-text tokens: impossible before `min_tokens`.
    pub eos: &'a [TokenId],
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub token_id: TokenId,
    /// If `params.logprobs` is set: from the untouched logits.
    pub logprob: Option<TokenLogprob>,
}

/// Buffers that are reused from call to call.
#[derive(Debug, Default)]
pub struct SampleScratch {}

/// Chooses the next token. `logits` is (vocab_size,) and is modified in place.
pub fn sample(_logits: &mut [f32], _context: SampleContext<'_>, _scratch: &mut SampleScratch) -> Sampled {
    todo!()
}

/// The log-probability of `token` under untouched `logits` (vocab_size,), with the `num_top` best tokens.
pub fn token_logprob(_logits: &[f32], _token: TokenId, _num_top: usize, _scratch: &mut SampleScratch) -> TokenLogprob {
    todo!()
}

/// The seed of choice `index` of a request with `seed`; choice 0 keeps the request's own.
pub fn choice_seed(_seed: u64, _index: usize) -> u64 {
    todo!()
}
