//! Mixtures of experts: tokens are put into the order of their experts, so that each expert's rows are one product.

use std::ops::Range;
use std::sync::PoisonError;

use super::activations::ExpertActivations;
use super::{CpuLane, CpuLinear, GATED_FLOATS, Input};
use crate::backend::Act;
use crate::kernels::on_lines;
use crate::model::{Activation, ExpertsConfig};

/// Where the entries of a step are: entry `token * per_token + k` is choice k of a token.
#[derive(Debug, Default)]
pub struct Routes {
    /// (count + 1,): the first row of every expert.
    starts: Vec<usize>,
    /// (num_entries,): the row of each entry.
    rows: Vec<usize>,
}

impl Routes {
    /// A counting sort of `picked`, (num_entries,), which keeps the order of tokens.
    fn fill(&mut self, picked: &[usize], count: usize) {
        self.starts.clear();
        self.starts.resize(count + 1, 0);
        for &expert in picked {
            self.starts[expert + 1] += 1;
        }
        for expert in 0..count {
            self.starts[expert + 1] += self.starts[expert];
        }
        self.rows.clear();
        for &expert in picked {
            self.rows.push(self.starts[expert]);
            self.starts[expert] += 1;
        }
        // Every start has moved to the next one.
        self.starts.rotate_right(1);
        self.starts[0] = 0;
    }

    pub(super) fn num_entries(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn of(&self, expert: usize) -> Range<usize> {
        self.starts[expert]..self.starts[expert + 1]
    }
}

/// The `shares.len()` largest of a softmax over `logits`, the largest first and of equals the first: calls `pick` with
/// each place. Takes them out of `logits`.
fn pick_largest(logits: &mut [f32], shares: &mut [f32], normalized: bool, mut pick: impl FnMut(usize)) {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let all: f32 = logits.iter().map(|x| (x - largest).exp()).sum();
    for share in &mut *shares {
        let mut best = 0;
        for (expert, x) in logits.iter().enumerate() {
            if *x > logits[best] {
                best = expert;
            }
        }
        *share = (logits[best] - largest).exp();
        logits[best] = f32::NEG_INFINITY;
        pick(best);
    }
    let sum = if normalized { shares.iter().sum() } else { all };
    shares.iter_mut().for_each(|share| *share /= sum);
}

impl CpuLane<'_> {
    fn experts(&self) -> &ExpertActivations {
        self.shared.acts.experts.as_ref().expect("a model with experts has activations for them")
    }

    pub(super) fn route_tokens(&self, router: &CpuLinear, config: ExpertsConfig) {
        let acts = self.experts();
        let num_tokens = self.shared.plan.num_tokens();
        // A router is small, and its choices turn on small differences.
        let input = Input { rounded: None, ..self.prepare(router, Act::Normed, num_tokens) };
        for (segment, panels) in router.within(self.lane.share(router.num_panels())) {
            self.multiply_rows(segment, panels, input, 0..num_tokens, acts.logits.columns_from(0));
        }
        self.lane.barrier();
        let tokens = self.tokens();
        let mut mine = Vec::with_capacity(tokens.len() * config.per_token);
        for token in tokens.clone() {
            // SAFETY: this lane's token.
            let (logits, shares) = unsafe { (acts.logits.row_mut(token), acts.shares.row_mut(token)) };
            pick_largest(logits, shares, config.normalized, |expert| mine.push(expert));
        }
        let first = tokens.start * config.per_token;
        acts.picked.lock().unwrap_or_else(PoisonError::into_inner)[first..][..mine.len()].copy_from_slice(&mine);
        self.lane.barrier();
        if self.lane.id == 0 {
            let picked = acts.picked.lock().unwrap_or_else(PoisonError::into_inner);
            let mut routes = acts.routes.write().unwrap_or_else(PoisonError::into_inner);
            routes.fill(&picked[..num_tokens * config.per_token], config.count);
        }
        self.lane.barrier();
        self.gather_entries(config);
        self.lane.barrier();
    }

    /// Normed to the rows of its entries, ready for the next product.
    fn gather_entries(&self, config: ExpertsConfig) {
        let acts = self.experts();
        let routes = acts.routes.read().unwrap_or_else(PoisonError::into_inner);
        for entry in self.lane.share(routes.rows.len()) {
            let row = routes.rows[entry];
            // SAFETY: an entry's row is this lane's; Normed lies behind a barrier, or is this lane's own.
            let (from, to) = unsafe { (self.stream().normed.row(entry / config.per_token), acts.input.row_mut(row)) };
            to.copy_from_slice(from);
            // SAFETY: this lane's row.
            unsafe { acts.input_rounded.write(self.shared.kernels, to, row, 0) };
        }
    }

    pub(super) fn gate_experts(&self, weight: &CpuLinear, config: ExpertsConfig, activation: Activation) {
        let acts = self.experts();
        let routes = acts.routes.read().unwrap_or_else(PoisonError::into_inner);
        let input = Input { float32: Some(&acts.input), rounded: Some(&acts.input_rounded), ordered: &[] };
        let mut scratch = self.scratch();
        let outputs = on_lines(&mut scratch, 2 * GATED_FLOATS);
        for expert in 0..config.count {
            let [gate, up] = &weight.segments[2 * expert..][..2] else { unreachable!("two of a slice of two") };
            let entries = routes.of(expert);
            if !entries.is_empty() {
                self.gated_rows([gate, up], input, activation, entries, self.gate_panels(gate), outputs);
            }
        }
        self.lane.barrier();
    }

    pub(super) fn sum_of_experts(&self, weight: &CpuLinear, config: ExpertsConfig) {
        let acts = self.experts();
        let routes = acts.routes.read().unwrap_or_else(PoisonError::into_inner);
        let input = self.input(Act::Gate);
        for (expert, segment) in weight.segments.iter().enumerate() {
            let (entries, panels) = (routes.of(expert), self.lane.share(segment.matrix.num_panels()));
            if !entries.is_empty() && !panels.is_empty() {
                self.multiply_rows(segment, panels, input, entries, acts.output.columns_from(0));
            }
        }
        self.lane.barrier();
        for token in self.tokens() {
            // SAFETY: this lane's token; what experts made lies behind a barrier.
            let (sum, shares) = unsafe { (self.shared.acts.projected.row_mut(token), acts.shares.row(token)) };
            sum.fill(0.0);
            for (k, share) in shares.iter().enumerate() {
                // SAFETY: as above.
                let from = unsafe { acts.output.row(routes.rows[token * config.per_token + k]) };
                sum.iter_mut().zip(from).for_each(|(sum, x)| *sum += share * x);
            }
        }
        self.lane.barrier();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_sorted_by_expert_and_keep_their_order() {
        let mut routes = Routes::default();
        routes.fill(&[2, 0, 2, 3, 0, 2], 5);
        assert_eq!(routes.rows, [2, 0, 3, 5, 1, 4]);
        let ranges: Vec<_> = (0..5).map(|expert| routes.of(expert)).collect();
        assert_eq!(ranges, [0..2, 2..2, 2..5, 5..6, 6..6]);
    }

    #[test]
    fn the_largest_are_picked_and_share_what_they_say() {
        let logits = [1.0, 3.0, 3.0, -1.0];
        for normalized in [false, true] {
            let (mut rest, mut shares, mut picked) = (logits, [0.0; 3], Vec::new());
            pick_largest(&mut rest, &mut shares, normalized, |expert| picked.push(expert));
            assert_eq!(picked, [1, 2, 0]);
            let kept = if normalized { 3 } else { 4 };
            let sum: f32 = logits[..kept].iter().map(|x| x.exp()).sum();
            for (share, &expert) in shares.iter().zip(&picked) {
                assert!((share - logits[expert].exp() / sum).abs() < 1e-6, "{shares:?}");
            }
        }
    }
}
