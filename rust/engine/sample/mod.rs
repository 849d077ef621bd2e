//! From a row of logits to a token. Pure: the same row, parameters and tokens give the same token.

mod logprobs;
mod plan;
mod processors;
mod random;
mod select;
mod softmax;
mod truncate;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::output::TokenLogprob;
use crate::request::SamplingParams;

pub use logprobs::token_logprob;
pub use plan::{Choice, Edit, RowEdits, RowMask, SamplePlan};
pub use random::choice_seed;

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
pub struct SampleScratch {
    candidates: Vec<select::Candidate>,
    ranked: Vec<select::Ranked>,
    block_masses: Vec<f64>,
    edits: processors::Edits,
    counts: processors::Counts,
}

/// Chooses the next token. `logits` is (vocab_size,); it is edited in place and restored.
///
/// In vLLM's order: bias, minimum length, penalties; then the best token, or temperature, top-k, typical,
/// top-p, min-p and a draw. Logits that are not finite are never chosen; an error if there is no other.
pub fn sample(logits: &mut [f32], context: SampleContext<'_>, scratch: &mut SampleScratch) -> Result<Sampled> {
    processors::process(logits, &context, &mut scratch.edits, &mut scratch.counts);
    let token_id = choose(logits, &context, scratch);
    scratch.edits.undo(logits);
    let token_id = token_id.ok_or_else(|| no_finite_logit(context.prompt.len() + context.output.len()))?;
    let num_top = context.params.logprobs;
    Ok(Sampled { token_id, logprob: num_top.map(|num_top| token_logprob(logits, token_id, num_top, scratch)) })
}

fn choose(logits: &[f32], context: &SampleContext<'_>, scratch: &mut SampleScratch) -> Option<TokenId> {
    let (best, max) = softmax::argmax(logits)?;
    let params = context.params;
    if params.temperature == 0.0 {
        return Some(best);
    }
    let softmax = softmax::Softmax { max, temperature: params.temperature };
    let u = random::u01(context.seed, context.prompt.len() + context.output.len());
    if truncate::is_off(params) {
        return Some(softmax.draw(logits, u, &mut scratch.block_masses));
    }
    truncate::truncate(logits, params, softmax, scratch);
    let weights = || scratch.candidates.iter().map(|c| f64::from(c.weight));
    let (index, _) = softmax::pass(weights(), u * weights().sum::<f64>());
    Some(scratch.candidates[index].id)
}

pub(crate) fn no_finite_logit(position: usize) -> Error {
    Error::Internal(format!("no token can be chosen at position {position}: every logit is masked or not a number"))
}
