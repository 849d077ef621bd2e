//! One step, as plain data: it can be logged, broadcast to ranks, replayed and simulated.

use std::ops::Range;

use crate::ids::{BlockId, SequenceId, TokenId};

/// Which rows of a scheduled sequence the model's head is applied to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsWanted {
    /// The prompt is not complete after this step.
    None,
    /// Logits after the last scheduled token.
    Last,
    /// Logits after every scheduled token (prompt log-probabilities, draft verification).
    All,
    /// The final hidden state of the last scheduled token.
    Embedding,
}

/// Where a group of layers finds a sequence's blocks: entry `i` of `blocks` holds the positions
/// `(first_block + i) * block_size ..`. Earlier positions have left the sliding window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSlice {
    pub first_block: usize,
    /// Into [`SchedulerOutput::block_ids`].
    pub blocks: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduledSequence {
    pub id: SequenceId,
    /// `num_computed_tokens` before the step: the position of the first scheduled token.
    pub start: usize,
    /// Into [`SchedulerOutput::tokens`]: the tokens to compute now.
    pub tokens: Range<usize>,
    /// Tables of this sequence in [`SchedulerOutput::tables`], one per KV group, in order.
    pub tables: Range<usize>,
    pub rows: RowsWanted,
}

impl ScheduledSequence {
    pub fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Length of the sequence in the KV cache after the step.
    pub fn context_len(&self) -> usize {
        self.start + self.tokens.len()
    }

    pub fn num_logit_rows(&self) -> usize {
        match self.rows {
            RowsWanted::None | RowsWanted::Embedding => 0,
            RowsWanted::Last => 1,
            RowsWanted::All => self.tokens.len(),
        }
    }
}

/// Copy on write: `src` is copied to `dst` in every layer of the block's group before the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    pub src: BlockId,
    pub dst: BlockId,
}

/// Flat buffers, cleared and refilled each step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchedulerOutput {
    pub sequences: Vec<ScheduledSequence>,
    pub tokens: Vec<TokenId>,
    pub tables: Vec<TableSlice>,
    pub block_ids: Vec<BlockId>,
    pub copies: Vec<BlockCopy>,
    /// Sequences that lost their blocks and wait again.
    pub preempted: Vec<SequenceId>,
}

impl SchedulerOutput {
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    pub fn num_tokens(&self) -> usize {
        self.tokens.len()
    }

    pub fn clear(&mut self) {
        self.sequences.clear();
        self.tokens.clear();
        self.tables.clear();
        self.block_ids.clear();
        self.copies.clear();
        self.preempted.clear();
    }
}
