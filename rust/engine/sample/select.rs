//! Partial selection: the best of a vocabulary without sorting it.

use std::cmp::Ordering;

use super::softmax::{BLOCK, Softmax, block_max};
use crate::ids::TokenId;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    pub id: TokenId,
    pub logit: f32,
    pub weight: f32,
}

impl Candidate {
    /// Most likely first, then by id.
    pub fn order(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.id.cmp(&other.id))
    }
}

/// The `k` most likely tokens (fewer if fewer are finite), in no particular order.
pub fn top_k(logits: &[f32], k: usize, softmax: Softmax, out: &mut Vec<Candidate>) {
    out.clear();
    if k == 0 {
        return;
    }
    // Ids ascend, so a token that only equals the k-th best so far cannot displace it.
    let mut floor = f32::NEG_INFINITY;
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        if block_max(block) > floor {
            push_above(block, i * BLOCK, floor, softmax, out);
        }
        if out.len() >= 2 * k + BLOCK {
            keep_best(out, k);
            floor = out[k - 1].logit;
        }
    }
    if out.len() > k {
        keep_best(out, k);
    }
}

/// More than `k` candidates become the best `k`, the last of them in its place.
fn keep_best(candidates: &mut Vec<Candidate>, k: usize) {
    candidates.select_nth_unstable_by(k - 1, Candidate::order);
    candidates.truncate(k);
}

/// The tokens with a finite logit above `floor`, by id.
pub fn above(logits: &[f32], floor: f32, softmax: Softmax, out: &mut Vec<Candidate>) {
    out.clear();
    for (i, block) in logits.chunks(BLOCK).enumerate() {
        if block_max(block) > floor {
            push_above(block, i * BLOCK, floor, softmax, out);
        }
    }
}

fn push_above(block: &[f32], start: usize, floor: f32, softmax: Softmax, out: &mut Vec<Candidate>) {
    for (i, &logit) in block.iter().enumerate() {
        if logit > floor && logit.is_finite() {
            out.push(Candidate { id: (start + i) as TokenId, logit, weight: softmax.weight(logit) });
        }
    }
}

/// A candidate's place in the order of a filter: lowest key first, then by id.
#[derive(Debug, Clone, Copy)]
pub struct Ranked {
    key: f32,
    id: TokenId,
    weight: f32,
}

impl Ranked {
    fn order(&self, other: &Self) -> Ordering {
        self.key.total_cmp(&other.key).then(self.id.cmp(&other.id))
    }
}

/// Keeps the smallest set of `candidates`, taken by ascending `key`, that weighs at least `mass`.
pub fn keep_mass(
    candidates: &mut Vec<Candidate>,
    mass: f64,
    ranked: &mut Vec<Ranked>,
    key: impl Fn(&Candidate) -> f32,
) {
    ranked.clear();
    ranked.extend(candidates.iter().map(|c| Ranked { key: key(c), id: c.id, weight: c.weight }));
    if ranked.len() > 1 {
        let last = mass_boundary(ranked, mass);
        candidates.retain(|c| Ranked { key: key(c), id: c.id, weight: c.weight }.order(&last).is_le());
    }
}

/// The last member of that set. Halves like quickselect, so it is linear in the number of candidates.
fn mass_boundary(mut rest: &mut [Ranked], mut mass: f64) -> Ranked {
    while rest.len() > 1 {
        let middle = (rest.len() - 1) / 2;
        rest.select_nth_unstable_by(middle, Ranked::order);
        let (front, back) = rest.split_at_mut(middle + 1);
        let weight: f64 = front.iter().map(|r| f64::from(r.weight)).sum();
        if weight >= mass {
            rest = front;
        } else {
            mass -= weight;
            rest = back;
        }
    }
    rest[0]
}
