//! The 256 positions that one softmax runs over, and where their blocks lie.

use std::iter::once;
use std::ops::{Range, RangeInclusive};
use std::ptr::null;

use super::{AttentionTask, BLOCK_SIZE, KvLayer, ROWS_PER_TILE};
use crate::ids::BlockId;

/// Positions per softmax chunk.
pub(in crate::kernels) const CHUNK_LEN: usize = 256;
const BLOCKS: usize = CHUNK_LEN / BLOCK_SIZE;

/// Bytes between what is read and what is prefetched: what memory gives while one line is under way.
const AHEAD_BYTES: usize = 12 << 10;

/// The same in blocks: a tile takes four side by side.
const AHEAD_BLOCKS: RangeInclusive<usize> = 4..=BLOCKS;

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
    /// What is read some blocks after the keys of a block; for prefetching only.
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
        let (first, num_blocks) = (self.blocks.start, self.blocks.len());
        let ahead = AHEAD_BYTES / self.task.kv.shape.piece_bytes();
        let ahead = ahead.clamp(*AHEAD_BLOCKS.start(), *AHEAD_BLOCKS.end());
        let mut following = [self.task.q.cast(); *AHEAD_BLOCKS.end()];
        following[..ahead].iter_mut().zip(self.following()).for_each(|(place, piece)| *place = piece);
        let piece = |i: usize| match i {
            _ if i < num_blocks => self.keys[first + i],
            _ if i < 2 * num_blocks => self.values[first + i - num_blocks],
            _ => following[i - 2 * num_blocks],
        };
        for i in 0..num_blocks {
            self.after_keys[first + i] = piece(i + ahead);
            self.after_values[first + i] = piece(num_blocks + i + ahead);
        }
    }

    /// What is read after this chunk: those that follow, and then what is attended to next.
    fn following(&self) -> impl Iterator<Item = *const u8> + use<'a> {
        let task = self.task;
        let behind = self.first_position / BLOCK_SIZE + BLOCKS;
        let here = match task.q_rows {
            None => task.blocks.get(behind.saturating_sub(task.first_block)..task.num_blocks()).unwrap_or_default(),
            Some(_) => &[],
        };
        let next =
            task.next.into_iter().flat_map(move |next| pieces(task.kv, next.kv_head, next.blocks, next.first_block));
        pieces(task.kv, task.kv_head, here, behind).chain(next)
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

/// The keys and the values of blocks, of which the first is number `first_block` of its sequence, in the order of chunks.
fn pieces<'a>(
    kv: KvLayer<'a>,
    head: usize,
    blocks: &'a [BlockId],
    first_block: usize,
) -> impl Iterator<Item = *const u8> + use<'a> {
    let (first, rest) = blocks.split_at(blocks.len().min(BLOCKS - first_block % BLOCKS));
    once(first).chain(rest.chunks(BLOCKS)).flat_map(move |blocks| {
        let keys = blocks.iter().map(move |&block| kv.keys(block, head).cast_const());
        keys.chain(blocks.iter().map(move |&block| kv.values(block, head).cast_const()))
    })
}
