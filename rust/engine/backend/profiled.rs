//! A backend that tells a profile how long each operation took.

use std::time::Instant;

use super::{Act, Backend, HeadTransform};
use crate::config::KvDtype;
use crate::model::{Activation, ExpertsConfig, ModelConfig};
use crate::profile::{Cost, Operation, Profile};
use crate::sched::SchedulerOutput;

/// What matrices weigh.
pub trait Weights {
    fn num_bytes(&self) -> usize;

    /// Elements of the matrices: multiply-adds for a row.
    fn num_weights(&self) -> usize;
}

/// Costs of a step that its shape alone tells.
#[derive(Debug)]
pub struct StepCosts {
    num_tokens: u64,
    num_logit_rows: u64,
    /// (num_layers,)
    attention: Vec<Cost>,
}

impl StepCosts {
    pub fn new(step: &SchedulerOutput, config: &ModelConfig, kv_dtype: KvDtype) -> Self {
        let layer = |window: Option<usize>| attention(step, config, window.unwrap_or(usize::MAX), kv_dtype);
        Self {
            num_tokens: step.num_tokens() as u64,
            num_logit_rows: step.sequences.iter().map(|sequence| sequence.num_logit_rows() as u64).sum(),
            attention: config.layers.iter().map(|config| layer(config.window)).collect(),
        }
    }
}

/// Of one layer: a sequence's keys and values are read once, however many of its tokens are computed.
fn attention(step: &SchedulerOutput, config: &ModelConfig, window: usize, kv_dtype: KvDtype) -> Cost {
    let mut cost = Cost::default();
    for sequence in &step.sequences {
        let seen: usize = (sequence.start..sequence.context_len()).map(|position| window.min(position + 1)).sum();
        let read = sequence.context_len().min(window.saturating_add(sequence.num_tokens() - 1));
        cost.ops += (2 * 2 * config.q_dim() * seen) as u64;
        cost.bytes += (config.kv_bytes_per_layer(kv_dtype) * read) as u64;
    }
    cost
}

/// One lane, of which lane 0 has a profile to tell: the others take the same time.
pub struct Profiled<'a, B> {
    pub inner: B,
    pub costs: &'a StepCosts,
    pub profile: Option<&'a Profile>,
}

impl<B: Backend<Linear: Weights>> Profiled<'_, B> {
    fn time(&self, operation: Operation, cost: impl FnOnce() -> Cost, run: impl FnOnce(&B)) {
        let Some(profile) = self.profile else { return run(&self.inner) };
        let start = Instant::now();
        run(&self.inner);
        profile.add(operation, start.elapsed(), cost());
    }

    fn product(&self, weight: &B::Linear, rows: u64) -> Cost {
        Cost { bytes: weight.num_bytes() as u64, ops: 2 * rows * weight.num_weights() as u64 }
    }

    /// Of the experts that tokens take; as many of them as there can be are read.
    fn experts_product(&self, weight: &B::Linear, experts: ExpertsConfig) -> Cost {
        let ExpertsConfig { count, per_token, .. } = experts;
        let (count, entries) = (count as u64, self.costs.num_tokens * per_token as u64);
        let all = self.product(weight, entries);
        Cost { bytes: all.bytes / count * entries.min(count), ops: all.ops / count }
    }
}

impl<B: Backend<Linear: Weights>> Backend for Profiled<'_, B> {
    type Linear = B::Linear;
    type Vector = B::Vector;

    fn embed(&self, table: &B::Linear, scale: Option<f32>) {
        self.time(Operation::Embed, Cost::default, |inner| inner.embed(table, scale));
    }

    fn norm(&self, weight: &B::Vector) {
        self.time(Operation::Norm, Cost::default, |inner| inner.norm(weight));
    }

    fn linear(&self, weight: &B::Linear, input: Act) {
        let operation = match input {
            Act::Attended => Operation::Output,
            Act::Gate => Operation::Down,
            _ => Operation::Qkv,
        };
        let cost = || self.product(weight, self.costs.num_tokens);
        self.time(operation, cost, |inner| inner.linear(weight, input));
    }

    fn expect(&self, weight: &B::Linear) {
        self.inner.expect(weight);
    }

    fn rotate_and_store(&self, layer: usize, heads: &HeadTransform<B::Vector>) {
        self.time(Operation::RopeAndStore, Cost::default, |inner| inner.rotate_and_store(layer, heads));
    }

    fn attend(&self, layer: usize) {
        self.time(Operation::Attention, || self.costs.attention[layer], |inner| inner.attend(layer));
    }

    fn gated_linear(&self, weight: &B::Linear, activation: Activation) {
        let cost = || self.product(weight, self.costs.num_tokens);
        self.time(Operation::GateUp, cost, |inner| inner.gated_linear(weight, activation));
    }

    fn route(&self, router: &B::Linear, experts: ExpertsConfig) {
        let cost = || self.product(router, self.costs.num_tokens);
        self.time(Operation::GateUp, cost, |inner| inner.route(router, experts));
    }

    fn gated_experts(&self, weight: &B::Linear, experts: ExpertsConfig, activation: Activation) {
        let cost = || self.experts_product(weight, experts);
        self.time(Operation::GateUp, cost, |inner| inner.gated_experts(weight, experts, activation));
    }

    fn sum_experts(&self, weight: &B::Linear, experts: ExpertsConfig) {
        let cost = || self.experts_product(weight, experts);
        self.time(Operation::Down, cost, |inner| inner.sum_experts(weight, experts));
    }

    fn add_and_norm(&self, post: Option<&B::Vector>, next: Option<&B::Vector>) {
        self.time(Operation::Norm, Cost::default, |inner| inner.add_and_norm(post, next));
    }

    fn head(&self, norm: &B::Vector, head: &B::Linear, softcap: Option<f32>) {
        let cost = || match self.costs.num_logit_rows {
            0 => Cost::default(),
            rows => self.product(head, rows),
        };
        self.time(Operation::Head, cost, |inner| inner.head(norm, head, softcap));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use crate::profile::{Operation, PhaseTotals, Profile};
    use crate::{EngineConfig, EngineHandle, GenerateRequest, Prompt, SamplingParams};

    const PROMPT_LEN: usize = 20;
    const GEN_LEN: usize = 6;

    fn generate(profile: Option<Arc<Profile>>) -> (EngineHandle, Vec<u32>) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/gemma3");
        let config = EngineConfig { profile, ..EngineConfig::default() };
        let engine = EngineHandle::load(&dir, config).unwrap();
        let params = SamplingParams { ignore_eos: true, ..SamplingParams::greedy(GEN_LEN) };
        let prompt = Prompt::Tokens((1..=PROMPT_LEN as u32).collect());
        let output = engine.generate(GenerateRequest::new(prompt, params)).unwrap();
        let tokens = output.outputs[0].token_ids.clone();
        (engine, tokens)
    }

    fn ops(phase: &PhaseTotals, operations: &[Operation]) -> u64 {
        operations.iter().map(|&operation| phase.of(operation).cost.ops).sum()
    }

    #[test]
    fn a_profile_changes_nothing_and_counts_what_the_shape_says() {
        let profile = Arc::<Profile>::default();
        let (engine, tokens) = generate(Some(profile.clone()));
        assert_eq!(tokens, generate(None).1);

        let config = engine.model().config.as_ref().unwrap();
        let [(_, prefill), (_, decode)] = profile.take();
        assert_eq!((prefill.num_steps, decode.num_steps), (1, GEN_LEN as u64 - 1));
        let products = [Operation::Qkv, Operation::Output, Operation::GateUp, Operation::Down];
        assert_eq!(ops(&prefill, &products), 2 * PROMPT_LEN as u64 * config.layer_products());
        assert_eq!(ops(&decode, &products), 2 * decode.num_steps * config.layer_products());
        assert_eq!(ops(&prefill, &[Operation::Head]), 2 * config.head_products());
        let attention = |positions: std::ops::Range<usize>| -> u64 {
            positions.map(|position| 2 * config.attention_products(position)).sum()
        };
        assert_eq!(ops(&prefill, &[Operation::Attention]), attention(0..PROMPT_LEN));
        assert_eq!(ops(&decode, &[Operation::Attention]), attention(PROMPT_LEN..PROMPT_LEN + GEN_LEN - 1));
        let kv_dtype = engine.config().kv_dtype();
        let read: u64 = (PROMPT_LEN..PROMPT_LEN + GEN_LEN - 1).map(|p| config.kv_bytes_read(p, kv_dtype)).sum();
        assert_eq!(decode.of(Operation::Attention).cost.bytes, read);
    }
}
