//! Log-probabilities from the model's own logits.

use super::SampleScratch;
use super::select::{Candidate, top_k};
use super::softmax::{Softmax, argmax};
use crate::ids::TokenId;
use crate::output::TokenLogprob;

/// The log-probability of `token` under untouched `logits` (vocab_size,), with the `num_top` best tokens.
/// A token whose logit is not finite has -inf.
pub fn token_logprob(logits: &[f32], token: TokenId, num_top: usize, scratch: &mut SampleScratch) -> TokenLogprob {
    let logit = logits[token as usize];
    let max = argmax(logits).map_or(0.0, |(_, max)| max);
    let softmax = Softmax { max, temperature: 1.0 };
    let log_sum = f64::from(max) + softmax.mass(logits).ln();
    let logprob = |logit: f32| match logit.is_finite() {
        true => (f64::from(logit) - log_sum) as f32,
        false => f32::NEG_INFINITY,
    };
    top_k(logits, num_top, softmax, &mut scratch.candidates);
    scratch.candidates.sort_unstable_by(Candidate::order);
    TokenLogprob {
        token_id: token,
        logprob: logprob(logit),
        rank: rank(logits, token),
        top: scratch.candidates.iter().map(|c| (c.id, logprob(c.logit))).collect(),
    }
}

/// How many tokens come before `token`: those with a higher logit, and equals with a lower id.
fn rank(logits: &[f32], token: TokenId) -> usize {
    let logit = logits[token as usize];
    if !logit.is_finite() {
        return logits.iter().enumerate().filter(|&(id, l)| l.is_finite() || id < token as usize).count();
    }
    let (before, after) = logits.split_at(token as usize);
    let at_least = before.iter().filter(|&&l| l >= logit && l < f32::INFINITY).count();
    at_least + after.iter().filter(|&&l| l > logit && l < f32::INFINITY).count()
}
