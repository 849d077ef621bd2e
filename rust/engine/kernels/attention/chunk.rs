//! The 256 positions that one softmax runs over, and where their blocks lie.

use std::ops::Range;
use std::ptr::null;

use super::{AttentionTask, BLOCK_SIZE};

/// Positions per softmax chunk.
pub(in crate::kernels) const CHUNK_LEN: usize = 256;
const BLOCKS: usize = CHUNK_LEN / BLOCK_SIZE;

/// Rows of a task against one chunk. Positions count from the chunk's first.
pub(in crate::kernels) struct Chunk<'a> {
    pub task: &'a AttentionTask<'a>,
    /// Of the task's rows.
    pub rows: Range<usize>,
    first_position: usize,
    /// The blocks that some row sees.
    pub blocks: Range<usize>,
    /// Keys of the task's head in each block; null for blocks that no row sees.
    pub keys: [*const u8; BLOCKS],
    pub values: [*const u8; BLOCKS],
    /// The first keys of the next chunk, or null.
    next_keys: *const u8,
}

impl<'a> Chunk<'a> {
    pub fn new(task: &'a AttentionTask<'a>, rows: Range<usize>, id: usize) -> Self {
        let first_position = id * CHUNK_LEN;
        let within = |position: usize| position.saturating_sub(first_position).min(CHUNK_LEN);
        let begin = within(task.seen(rows.start).start);
        let end = within(task.seen(rows.end - 1).end);
        let blocks = begin / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE);
        let mut chunk = Self {
            task,
            rows,
            first_position,
            blocks,
            keys: [null(); BLOCKS],
            values: [null(); BLOCKS],
            next_keys: null(),
        };
        chunk.look_up();
        chunk
    }

    fn look_up(&mut self) {
        let AttentionTask { kv, kv_head, blocks: table, first_block, .. } = self.task;
        let first = self.first_position / BLOCK_SIZE;
        for i in self.blocks.clone() {
            let block = table[first + i - first_block];
            self.keys[i] = kv.keys(block, *kv_head);
            self.values[i] = kv.values(block, *kv_head);
        }
        if let Some(&block) = (first + BLOCKS).checked_sub(*first_block).and_then(|i| table.get(i)) {
            self.next_keys = kv.keys(block, *kv_head);
        }
    }

    /// The positions of this chunk that the chunk's row `i` sees.
    pub fn seen(&self, i: usize) -> Range<usize> {
        let seen = self.task.seen(self.rows.start + i);
        let within = |position: usize| position.saturating_sub(self.first_position).min(CHUNK_LEN);
        within(seen.start)..within(seen.end)
    }

    /// What is read `ahead` blocks after the keys of block `i`; for prefetching only.
    pub fn after_keys(&self, i: usize, ahead: usize) -> *const u8 {
        if i + ahead < self.blocks.end { self.keys[i + ahead] } else { self.values[self.blocks.start] }
    }

    /// What is read after the values of block `i`; for prefetching only.
    pub fn after_values(&self, i: usize) -> *const u8 {
        if i + 1 < self.blocks.end { self.values[i + 1] } else { self.next_keys }
    }
}
