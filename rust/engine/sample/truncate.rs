//! Which tokens may be drawn: top-k, typical, top-p and min-p, in this order, each on what the ones before left.

use super::SampleScratch;
use super::select::{Candidate, Ranked, above, keep_mass, top_k};
use super::softmax::Softmax;
use crate::request::SamplingParams;

/// Whether every token may be drawn.
pub fn is_off(params: &SamplingParams) -> bool {
    params.top_k == 0 && params.typical_p >= 1.0 && params.top_p >= 1.0 && params.min_p <= 0.0
}

/// Leaves the tokens that may be drawn in `scratch.candidates`, by id.
pub fn truncate(logits: &[f32], params: &SamplingParams, softmax: Softmax, scratch: &mut SampleScratch) {
    let total = gather(logits, params, softmax, &mut scratch.candidates);
    let SampleScratch { candidates, ranked, .. } = scratch;
    let total = match params.typical_p < 1.0 {
        true => typical(candidates, f64::from(params.typical_p) * total, ranked),
        false => total,
    };
    if params.top_p < 1.0 {
        keep_mass(candidates, f64::from(params.top_p) * total, ranked, |c| -c.logit);
    }
    if params.min_p > 0.0 {
        let best = candidates.iter().fold(0f32, |best, c| best.max(c.weight));
        candidates.retain(|c| c.weight >= params.min_p * best);
    }
}

/// The tokens that any filter may keep, after top-k; and the weight of all that the filters choose from.
fn gather(logits: &[f32], params: &SamplingParams, softmax: Softmax, out: &mut Vec<Candidate>) -> f64 {
    if params.top_k > 0 && params.top_k < logits.len() {
        top_k(logits, params.top_k, softmax, out);
        out.sort_unstable_by_key(|c| c.id);
        return mass(out);
    }
    if params.typical_p < 1.0 {
        above(logits, f32::NEG_INFINITY, softmax, out);
        return mass(out);
    }
    if params.top_p < 1.0 {
        let total = softmax.mass(logits);
        gather_nucleus(logits, f64::from(params.top_p), total, softmax, out);
        return total;
    }
    above(logits, softmax.logit_of(f64::from(params.min_p)), softmax, out);
    mass(out)
}

/// All tokens of the nucleus, and some more.
fn gather_nucleus(logits: &[f32], top_p: f64, total: f64, softmax: Softmax, out: &mut Vec<Candidate>) {
    /// Relative to the best token. Most rows have their nucleus above it.
    const LIKELY: f64 = 1e-3;
    above(logits, softmax.logit_of(LIKELY), softmax, out);
    if mass(out) < top_p * total {
        // Tokens lighter than 1 - p of the mean weight sum to less than 1 - p of the total, so the
        // nucleus does without them; the half is for rounding.
        let lightest = 0.5 * (1.0 - top_p) * total / logits.len() as f64;
        above(logits, softmax.logit_of(lightest), softmax, out);
    }
}

/// Keeps the tokens whose information is closest to the expected one (Meister et al. 2022); their weight.
///
/// |-log p - entropy| is |logit - E[logit]| / temperature: normalization cancels.
fn typical(candidates: &mut Vec<Candidate>, kept: f64, ranked: &mut Vec<Ranked>) -> f64 {
    let expected = candidates.iter().map(|c| f64::from(c.weight) * f64::from(c.logit)).sum::<f64>() / mass(candidates);
    keep_mass(candidates, kept, ranked, |c| (f64::from(c.logit) - expected).abs() as f32);
    mass(candidates)
}

fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|c| f64::from(c.weight)).sum()
}
