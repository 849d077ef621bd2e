//! One step, as plain data: it can be logged, broadcast to ranks, replayed and simulated.

use std::ops::Range;

use crate::ids::{BlockId, HostBlockId, SequenceId, TokenId};

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
    /// Tokens before this position are the prompt's; those from it on were generated.
    pub num_prompt_tokens: usize,
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

    /// How many of the tokens to compute are the prompt's: these come first.
    pub fn num_prompt_queries(&self) -> usize {
        self.num_prompt_tokens.clamp(self.start, self.context_len()) - self.start
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

/// A block's contents go to host memory, or come from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSwap {
    pub block: BlockId,
    pub host: HostBlockId,
}

/// A scheduled token that the host does not know yet: the device chose it after the step before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChosenToken {
    /// Into [`SchedulerOutput::tokens`], where a 0 stands for it.
    pub token: usize,
    /// Which of the last choices it is.
    pub choice: usize,
}

/// Flat buffers, cleared and refilled each step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchedulerOutput {
    pub sequences: Vec<ScheduledSequence>,
    pub tokens: Vec<TokenId>,
    pub chosen: Vec<ChosenToken>,
    pub tables: Vec<TableSlice>,
    pub block_ids: Vec<BlockId>,
    /// First of all: these blocks may be written again in this step.
    pub swaps_out: Vec<BlockSwap>,
    /// Then.
    pub swaps_in: Vec<BlockSwap>,
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

    /// A part of a prompt outside of any pool: it has `num_blocks` blocks in each of `num_groups` groups, numbered from the
    /// last one in the step on.
    pub fn push(&mut self, start: usize, tokens: &[TokenId], rows: RowsWanted, num_groups: usize, num_blocks: usize) {
        let (first, table) = (self.tokens.len(), self.tables.len());
        self.tokens.extend(tokens);
        for _ in 0..num_groups {
            let blocks = self.block_ids.len()..self.block_ids.len() + num_blocks;
            self.block_ids.extend(blocks.clone().map(|block| BlockId(block as u32)));
            self.tables.push(TableSlice { first_block: 0, blocks });
        }
        self.sequences.push(ScheduledSequence {
            id: SequenceId(self.sequences.len() as u64),
            start,
            num_prompt_tokens: start + tokens.len(),
            tokens: first..self.tokens.len(),
            tables: table..self.tables.len(),
            rows,
        });
    }

    pub fn clear(&mut self) {
        self.sequences.clear();
        self.tokens.clear();
        self.chosen.clear();
        self.tables.clear();
        self.block_ids.clear();
        self.swaps_out.clear();
        self.swaps_in.clear();
        self.copies.clear();
        self.preempted.clear();
    }
}
