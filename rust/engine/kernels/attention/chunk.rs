//! The 256 positions that one softmax runs over, and where their blocks lie.

use std::ops::Range;
use std::ptr::null;

use super::{AttentionTask, BLOCK_SIZE, ROWS_PER_TILE};

/// Positions per softmax chunk.
pub(in crate::kernels) const CHUNK_LEN: usize = 256;
const BLOCKS: usize = CHUNK_LEN / BLOCK_SIZE;

/// Blocks between what is read and what is prefetched, of numbers of one byte: half as many of longer ones.
const AHEAD: usize = 8;

/// Rows of a task against one chunk. Positions count from the chunk's first.
pub(in crate::kernels) struct Chunk<'a> {
    pub task: &'a AttentionTask<'a>,
    /// Of the task's rows.
    pub rows: Range<usize>,
    first_position: usize,
    /// The positions that each row sees.
    seen: [Range<usize>; ROWS_PER_TILE],
    /// Each row's query, (head_dim,).
    queries: [*const f32; ROWS_PER_TILE],
    /// The blocks that some row sees.
    pub blocks: Range<usize>,
    /// Keys of the task's head in each block; null for blocks that no row sees.
    pub keys: [*const u8; BLOCKS],
    pub values: [*const u8; BLOCKS],
    /// What is read `AHEAD` blocks after the keys of a block; for prefetching only.
    pub after_keys: [*const u8; BLOCKS],
    /// The same for its values.
    pub after_values: [*const u8; BLOCKS],
}

impl<'a> Chunk<'a> {
    pub fn new(task: &'a AttentionTask<'a>, rows: Range<usize>, id: usize) -> Self {
        let first_position = id * CHUNK_LEN;
        let within = |position: usize| position.saturating_sub(first_position).min(CHUNK_LEN);
        let mut seen = [const { 0..0 }; ROWS_PER_TILE];
        let mut queries = [null(); ROWS_PER_TILE];
        for (i, row) in rows.clone().enumerate() {
            let all = task.seen(row);
            seen[i] = within(all.start)..within(all.end);
            queries[i] = task.q.wrapping_add(task.row_offset(row, task.q_stride));
        }
        // Both ends of what a row sees grow from row to row.
        let blocks = seen[0].start / BLOCK_SIZE..seen[rows.len() - 1].end.div_ceil(BLOCK_SIZE);
        let mut chunk = Self {
            task,
            rows,
            first_position,
            seen,
            queries,
            blocks,
            keys: [null(); BLOCKS],
            values: [null(); BLOCKS],
            after_keys: [null(); BLOCKS],
            after_values: [null(); BLOCKS],
        };
        chunk.look_up();
        chunk.look_ahead();
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
    }

    fn look_ahead(&mut self) {
        let Range { start, end } = self.blocks;
        let ahead = AHEAD / self.task.kv.shape.dtype.number_bytes().min(2);
        for i in self.blocks.clone() {
            self.after_keys[i] = match i + ahead {
                next if next < end => self.keys[next],
                next => self.values[(start + next - end).min(i)],
            };
            self.after_values[i] = match i + ahead {
                next if next < end => self.values[next],
                next => self.next_keys(next - end),
            };
        }
    }

    /// The keys of block `i` of the next chunk, or of what is attended to next; where there is none, something that is in
    /// the caches.
    fn next_keys(&self, i: usize) -> *const u8 {
        let AttentionTask { kv, kv_head, blocks: table, first_block, next, q, .. } = self.task;
        let here = (self.first_position / BLOCK_SIZE + BLOCKS)
            .checked_sub(*first_block)
            .and_then(|first| table.get(first + i));
        let block = here.map(|&block| (block, *kv_head));
        let block = block.or_else(|| next.and_then(|next| Some((*next.blocks.get(i)?, next.kv_head))));
        block.map_or(q.cast(), |(block, head)| kv.keys(block, head))
    }

    /// The positions of this chunk that the chunk's row `i` sees.
    pub fn seen(&self, i: usize) -> Range<usize> {
        self.seen[i].clone()
    }

    /// The chunk's row `i` of queries, (head_dim,).
    pub fn query(&self, i: usize) -> *const f32 {
        self.queries[i]
    }
}
