//! A model without weights that drives the real engine: tokens follow from a hash of the prefix.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::hash::mix;
use crate::kv::KvGeometry;
use crate::runner::{ModelOutput, ModelRunner};
use crate::sched::{BlockCopy, RowsWanted, ScheduledSequence, SchedulerOutput};

/// Time that a step takes: the model stands in for a device in scheduler benchmarks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NullCost {
    /// Per step.
    pub fixed: Duration,
    /// Per computed token.
    pub per_token: Duration,
    /// Per token of context that a scheduled sequence reads.
    pub per_context_token: Duration,
}

#[derive(Debug, Clone)]
pub struct NullConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_blocks: usize,
    /// See [`KvGeometry::num_host_blocks`].
    pub num_host_blocks: usize,
    pub block_size: usize,
    /// One per layer: positions that a token attends to. None: all.
    pub windows: Vec<Option<usize>>,
    /// None: as fast as it goes.
    pub cost: Option<NullCost>,
}

impl Default for NullConfig {
    fn default() -> Self {
        Self {
            vocab_size: 64,
            hidden_size: 8,
            num_blocks: 1024,
            num_host_blocks: 0,
            block_size: 16,
            windows: vec![None],
            cost: None,
        }
    }
}

/// The model's KV memory holds one state per position and group. A token's state mixes the token with
/// states that it reads through the step's block tables, as attention would: any error in paging, sharing,
/// copying or caching changes every token from there on.
#[derive(Debug)]
pub struct NullModel {
    config: NullConfig,
    geometry: KvGeometry,
    /// (num_blocks, block_size)
    states: Vec<u64>,
    /// (num_host_blocks, block_size)
    host_states: Vec<u64>,
}

impl NullModel {
    pub fn new(config: NullConfig) -> Self {
        let &NullConfig { num_blocks, num_host_blocks, block_size, .. } = &config;
        let geometry = KvGeometry { num_host_blocks, ..KvGeometry::new(num_blocks, block_size, &config.windows) };
        let [states, host_states] = [num_blocks, num_host_blocks].map(|blocks| vec![0; blocks * block_size]);
        Self { config, geometry, states, host_states }
    }

    fn swap_blocks(&mut self, step: &SchedulerOutput) {
        let block_size = self.config.block_size;
        let range = |block: usize| block * block_size..(block + 1) * block_size;
        for swap in &step.swaps_out {
            self.host_states[range(swap.host.index())].copy_from_slice(&self.states[range(swap.block.index())]);
        }
        for swap in &step.swaps_in {
            self.states[range(swap.block.index())].copy_from_slice(&self.host_states[range(swap.host.index())]);
        }
    }

    fn copy_block(&mut self, copy: BlockCopy) {
        let block_size = self.config.block_size;
        let src = copy.src.index() * block_size;
        self.states.copy_within(src..src + block_size, copy.dst.index() * block_size);
    }

    /// Computes and stores a position in every group, and mixes the groups to one state.
    fn compute(&mut self, step: &SchedulerOutput, sequence: &ScheduledSequence, position: usize) -> u64 {
        let token = step.tokens[sequence.tokens.start + position - sequence.start];
        let tables = &step.tables[sequence.tables.clone()];
        assert_eq!(tables.len(), self.geometry.groups.len(), "one table per group");
        let mut state = 0;
        for (group, table) in self.geometry.groups.iter().zip(tables) {
            let slot = |position: usize| {
                let entry = position / self.config.block_size - table.first_block;
                let block = step.block_ids[table.blocks.clone()][entry];
                block.index() * self.config.block_size + position % self.config.block_size
            };
            let seed = mix(u64::from(token) ^ mix(position as u64));
            let first = group.window.map_or(0, |window| (position + 1).saturating_sub(window));
            let read = reads(first, position, seed).into_iter().flatten();
            let stored = read.fold(seed, |state, position| mix(state ^ self.states[slot(position)]));
            self.states[slot(position)] = stored;
            state = mix(state ^ stored);
        }
        state
    }

    fn push_rows(&self, rows: RowsWanted, is_last: bool, state: u64, out: &mut ModelOutput) {
        match rows {
            RowsWanted::All => push_row(&mut out.logits, self.config.vocab_size, state),
            RowsWanted::Last if is_last => push_row(&mut out.logits, self.config.vocab_size, state),
            RowsWanted::Embedding if is_last => push_row(&mut out.hidden, self.config.hidden_size, state),
            _ => {}
        }
    }

    fn wait(&self, step: &SchedulerOutput, began: Instant) {
        let Some(cost) = self.config.cost else { return };
        let context: usize = step.sequences.iter().map(ScheduledSequence::context_len).sum();
        let time = cost.fixed + cost.per_token * step.num_tokens() as u32 + cost.per_context_token * context as u32;
        while began.elapsed() < time {
            std::hint::spin_loop();
        }
    }
}

impl ModelRunner for NullModel {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    fn kv_geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn execute(&mut self, step: &SchedulerOutput, out: &mut ModelOutput) -> Result<()> {
        let began = Instant::now();
        (out.vocab_size, out.hidden_size) = (self.config.vocab_size, self.config.hidden_size);
        out.logits.clear();
        out.hidden.clear();
        self.swap_blocks(step);
        step.copies.iter().for_each(|&copy| self.copy_block(copy));
        for sequence in &step.sequences {
            for position in sequence.start..sequence.context_len() {
                let state = self.compute(step, sequence, position);
                self.push_rows(sequence.rows, position + 1 == sequence.context_len(), state, out);
            }
        }
        self.wait(step, began);
        Ok(())
    }
}

/// Positions whose states a token reads: the one before it, the first it sees, and one between.
fn reads(first: usize, position: usize, seed: u64) -> [Option<usize>; 3] {
    if first == position {
        return [None; 3];
    }
    let between = first + (seed % (position - first) as u64) as usize;
    [Some(position - 1), Some(first), Some(between)]
}

/// Numbers in [-4, 4), each a function of the state and its index.
fn push_row(rows: &mut Vec<f32>, len: usize, state: u64) {
    let number = |index| (mix(state ^ mix(index)) >> 40) as f32 / (1u64 << 21) as f32 - 4.0;
    rows.extend((0..len as u64).map(number));
}
