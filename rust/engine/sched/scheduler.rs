//! Who runs in the next step.

use super::SchedulerOutput;
use crate::config::Policy;
use crate::ids::{SequenceId, TokenId};
use crate::kv::KvGeometry;
use crate::sequence::Sequence;

#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Most sequences that run at once.
    pub max_num_seqs: usize,
    /// Token budget of one step.
    pub max_num_batched_tokens: usize,
    pub policy: Policy,
    pub enable_prefix_caching: bool,
    /// Most rows of logits in one step.
    pub max_logit_rows: usize,
}

pub struct Scheduler {}

impl Scheduler {
    pub fn new(_config: SchedulerConfig, _geometry: KvGeometry) -> Self {
        Self {}
    }

    /// To the waiting queue. The caller has checked that it can fit alone: see [`Self::max_tokens_alone`].
    pub fn add(&mut self, _sequence: Sequence) {
        todo!()
    }

    /// Longest sequence that the pool can hold alone, in tokens, over all groups.
    pub fn max_tokens_alone(&self) -> usize {
        todo!()
    }

    /// Fills `out` with the next step; empty if nothing can run. Decides only: counters move in `commit`.
    pub fn schedule(&mut self, _out: &mut SchedulerOutput) {
        todo!()
    }

    /// The step was executed: counters advance, full blocks are published to the prefix cache, and
    /// blocks that left a sliding window go back.
    pub fn commit(&mut self, _step: &SchedulerOutput) {
        todo!()
    }

    /// A sampled token. Only after the commit of the step that computed all earlier tokens.
    pub fn append(&mut self, _id: SequenceId, _token: TokenId) {
        todo!()
    }

    /// Choice `index` as a sequence of its own that shares all blocks, copied on write. It has the
    /// parent's tokens and counters: fork before `append`.
    pub fn fork(&mut self, _parent: SequenceId, _child: SequenceId, _index: usize) {
        todo!()
    }

    /// Ends a sequence in any state and releases its blocks. None: unknown id.
    pub fn finish(&mut self, _id: SequenceId) -> Option<Sequence> {
        todo!()
    }

    pub fn get(&self, _id: SequenceId) -> Option<&Sequence> {
        todo!()
    }

    pub fn num_running(&self) -> usize {
        todo!()
    }

    pub fn num_waiting(&self) -> usize {
        todo!()
    }

    pub fn num_blocks(&self) -> usize {
        todo!()
    }

    /// Blocks that some sequence holds; cached blocks that nobody holds are not counted.
    pub fn num_used_blocks(&self) -> usize {
        todo!()
    }

    pub fn num_preemptions(&self) -> u64 {
        todo!()
    }

    /// Tokens looked up in the prefix cache.
    pub fn prefix_cache_queries(&self) -> u64 {
        todo!()
    }

    /// Tokens found in the prefix cache.
    pub fn prefix_cache_hits(&self) -> u64 {
        todo!()
    }

    pub fn has_work(&self) -> bool {
        todo!()
    }

    /// Asserts everything that must hold between two calls.
    pub fn check_invariants(&self) {
        todo!()
    }
}
