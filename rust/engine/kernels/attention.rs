//! Attention over the paged KV cache.
//!
//! ```text
//! attention        per tile of rows: for each chunk of 256 positions { partial; merge into the state }; out = state / sum
//! attention_partial   one chunk's partial, for lanes that share a long sequence
//! attention_merge     the same merges and the same division, over partials that are there already
//! ```
//! A row is one query head of one query. Chunks lie at absolute multiples of 256 and are merged in order, and a
//! row's sums run over its own positions in order: its bits depend on neither the other rows nor the split.

mod chunk;
mod int8;
mod kv;
pub(in crate::kernels) mod store;

use std::ops::Range;

use super::{Kernels, dispatch, on_lines};
use crate::config::{Isa, KvDtype};
use crate::ids::BlockId;
pub(super) use chunk::{CHUNK_LEN, Chunk};
pub use kv::{BLOCK_SIZE, KvLayer, KvShape};

/// Rows that share a pass over K and V: their scores and sums stay in the L2 cache.
const ROWS_PER_TILE: usize = 48;

/// A row's state: the greatest score, the sum of weights (zero: nothing seen yet), a scale that kernels of integers
/// keep while they work, padding; then the weighted sum of values, padded to whole vectors.
pub(super) const STATE_HEADER: usize = 16;
pub(super) const MAX: usize = 0;
pub(super) const SUM: usize = 1;
pub(super) const SCALE: usize = 2;

/// Floats of a partial result of `num_rows` rows.
pub fn partial_len(num_rows: usize, head_dim: usize) -> usize {
    num_rows * (STATE_HEADER + head_dim.next_multiple_of(16))
}

/// What a task reads first.
#[derive(Debug, Clone, Copy)]
pub struct NextRead<'a> {
    /// Entry i holds positions (first_block + i) * 16 ...
    pub blocks: &'a [BlockId],
    pub first_block: usize,
    pub kv_head: usize,
}

/// Partials of a task's first chunks: those of chunk i are row `rows[i] + behind` of `partials`.
#[derive(Debug, Clone, Copy)]
pub struct Prefix<'a> {
    /// (rows, task.partial_len())
    pub partials: *const f32,
    pub rows: &'a [usize],
    pub behind: usize,
}

/// Consecutive queries of one sequence against one KV head: the query heads that share it.
#[derive(Debug, Clone, Copy)]
pub struct AttentionTask<'a> {
    pub kv: KvLayer<'a>,
    pub kv_head: usize,
    /// Query heads per KV head.
    pub group: usize,
    /// Entry i holds positions (first_block + i) * 16 ...
    pub blocks: &'a [BlockId],
    pub first_block: usize,
    /// Position of the first query; query i sees positions ..= start + i.
    pub start: usize,
    pub num_queries: usize,
    /// Positions that a query sees, its own included. None: all.
    pub window: Option<usize>,
    /// What this lane attends to afterwards, for prefetching.
    pub next: Option<NextRead<'a>>,
    /// Multiplies scores.
    pub scale: f32,
    /// cap * tanh(score / cap).
    pub softcap: Option<f32>,
    /// (num_queries, stride): query i's heads `kv_head * group ..` lie at `i * q_stride + kv_head * group * head_dim`.
    pub q: *const f32,
    pub q_stride: usize,
    /// Rows of `q` for queries that do not follow each other, of which each sees positions ..= start. None: 0, 1, ...
    pub q_rows: Option<&'a [usize]>,
    /// Where the first chunks have been computed.
    pub prefix: Option<Prefix<'a>>,
    /// Laid out as `q`.
    pub out: *mut f32,
    pub out_stride: usize,
}

impl AttentionTask<'_> {
    /// Positions per softmax chunk.
    pub const CHUNK_LEN: usize = CHUNK_LEN;

    /// The chunks of 256 positions that the queries see.
    pub fn chunks(&self) -> Range<usize> {
        self.chunks_of(&(0..self.num_rows()))
    }

    /// The chunks that a query at `position` sees.
    pub fn chunks_seen(position: usize, window: Option<usize>) -> Range<usize> {
        Self::first_seen(position, window) / CHUNK_LEN..(position + 1).div_ceil(CHUNK_LEN)
    }

    /// The first position that a query at `position` sees.
    pub fn first_seen(position: usize, window: Option<usize>) -> usize {
        window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Floats that `attention_partial` writes for one chunk.
    pub fn partial_len(&self) -> usize {
        partial_len(self.num_rows(), self.kv.shape.head_dim)
    }

    fn num_rows(&self) -> usize {
        self.num_queries * self.group
    }

    /// Entries of `blocks` that the queries see, from the first.
    fn num_blocks(&self) -> usize {
        (self.start + self.num_queries).div_ceil(BLOCK_SIZE) - self.first_block
    }

    /// Floats from one row's state to the next.
    fn state_stride(&self) -> usize {
        partial_len(1, self.kv.shape.head_dim)
    }

    /// The positions that a row sees.
    fn seen(&self, row: usize) -> Range<usize> {
        let position = self.start + if self.q_rows.is_some() { 0 } else { row / self.group };
        Self::first_seen(position, self.window)..position + 1
    }

    fn chunks_of(&self, rows: &Range<usize>) -> Range<usize> {
        if rows.is_empty() {
            return 0..0;
        }
        self.seen(rows.start).start / CHUNK_LEN..self.seen(rows.end - 1).end.div_ceil(CHUNK_LEN)
    }

    fn row_offset(&self, row: usize, stride: usize) -> usize {
        let query = row / self.group;
        self.q_rows.map_or(query, |rows| rows[query]) * stride
            + (self.kv_head * self.group + row % self.group) * self.kv.shape.head_dim
    }

    fn row_tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let num_rows = self.num_rows();
        (0..num_rows).step_by(ROWS_PER_TILE).map(move |row| row..(row + ROWS_PER_TILE).min(num_rows))
    }
}

/// A tile's part of the scratch memory.
struct Workspace<'a> {
    /// (rows, 256)
    scores: &'a mut [f32],
    /// (rows, state_stride)
    partial: &'a mut [f32],
    /// (rows, state_stride)
    state: &'a mut [f32],
}

impl<'a> Workspace<'a> {
    fn new(task: &AttentionTask<'_>, num_rows: usize, scratch: &'a mut Vec<f32>) -> Self {
        let state_len = num_rows * task.state_stride();
        let memory = on_lines(scratch, num_rows * CHUNK_LEN + 2 * state_len);
        let (scores, rest) = memory.split_at_mut(num_rows * CHUNK_LEN);
        let (partial, state) = rest.split_at_mut(state_len);
        Self { scores, partial, state }
    }
}

impl Kernels {
    /// Softmax attention of the task's queries. The softmax runs over chunks of 256 positions at absolute
    /// multiples of 256, merged in order: a query's bits depend on neither the other queries nor the caller's split.
    ///
    /// # Safety
    /// Pointers are valid for the shapes above; positions up to start + num_queries - 1 (within the window)
    /// are stored; no other lane writes them or these heads of `out` meanwhile.
    pub unsafe fn attention(&self, task: &AttentionTask<'_>, scratch: &mut Vec<f32>) {
        for rows in task.row_tiles() {
            let work = Workspace::new(task, rows.len(), scratch);
            // SAFETY: the caller's promises.
            let begun = unsafe { self.begin_rows(task, &rows, work.state) };
            let Range { start, end } = task.chunks_of(&rows);
            for id in start.max(begun)..end {
                let chunk = Chunk::new(task, rows.clone(), id);
                let is_first = id == start;
                let into = if is_first { &mut *work.state } else { &mut *work.partial };
                // SAFETY: the caller's promises; the workspace was made for these rows.
                unsafe { self.chunk_partial(&chunk, work.scores, into) };
                if !is_first {
                    self.merge_rows(task, work.state, work.partial);
                }
            }
            // SAFETY: the caller's promises.
            unsafe { self.write_rows(task, &rows, work.state) };
        }
    }

    /// Merges what has been computed of these rows; returns how many chunks that were.
    ///
    /// # Safety
    /// The partials of the task's prefix are valid, and nobody writes them.
    unsafe fn begin_rows(&self, task: &AttentionTask<'_>, rows: &Range<usize>, states: &mut [f32]) -> usize {
        let Some(prefix) = &task.prefix else { return 0 };
        for (i, row) in prefix.rows.iter().enumerate() {
            let first = (row + prefix.behind) * task.partial_len() + rows.start * task.state_stride();
            // SAFETY: the caller's promise.
            let partials = unsafe { std::slice::from_raw_parts(prefix.partials.add(first), states.len()) };
            match i {
                0 => states.copy_from_slice(partials),
                _ => self.merge_rows(task, states, partials),
            }
        }
        prefix.rows.len()
    }

    /// The part of `attention` that chunk `chunk` of `task.chunks()` contributes. `partial` is (`task.partial_len()`,).
    ///
    /// # Safety
    /// As for `attention`, but `out` is not touched.
    pub unsafe fn attention_partial(
        &self,
        task: &AttentionTask<'_>,
        chunk: usize,
        partial: &mut [f32],
        scratch: &mut Vec<f32>,
    ) {
        for rows in task.row_tiles() {
            let work = Workspace::new(task, rows.len(), scratch);
            let partial = &mut partial[rows.start * task.state_stride()..rows.end * task.state_stride()];
            let chunk = Chunk::new(task, rows, chunk);
            // SAFETY: the caller's promises; `partial` has a state per row.
            unsafe { self.chunk_partial(&chunk, work.scores, partial) };
        }
    }

    /// Writes the task's `out` from the partials of all its chunks, (chunks, `task.partial_len()`) in order: the
    /// same bits as `attention`.
    ///
    /// # Safety
    /// `task.out` is valid for the task's shape; no other lane touches these heads meanwhile.
    pub unsafe fn attention_merge(&self, task: &AttentionTask<'_>, partials: &mut [f32]) {
        let (state, rest) = partials.split_at_mut(task.partial_len());
        for partial in rest.chunks_exact(task.partial_len()).take(task.chunks().len() - 1) {
            self.merge_rows(task, state, partial);
        }
        // SAFETY: the caller's promise.
        unsafe { self.write_rows(task, &(0..task.num_rows()), state) };
    }

    /// # Safety
    /// As for `attention_partial`.
    unsafe fn chunk_partial(&self, chunk: &Chunk<'_>, scores: &mut [f32], partial: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.isa() == Isa::Avx512Bf16 && matches!(chunk.task.kv.shape.dtype, KvDtype::Bf16 | KvDtype::Fp8) {
            // SAFETY: this machine has the tier; the caller's promises.
            return unsafe { super::avx512::attention::bf16_partial(chunk, scores, partial) };
        }
        dispatch!(self, attention::chunk_partial(chunk, scores, partial))
    }

    /// Adds partials to states, row by row.
    fn merge_rows(&self, task: &AttentionTask<'_>, states: &mut [f32], partials: &[f32]) {
        let stride = task.state_stride();
        for (state, partial) in states.chunks_exact_mut(stride).zip(partials.chunks_exact(stride)) {
            match (state[SUM] == 0.0, partial[SUM] == 0.0) {
                (_, true) => {}
                (true, false) => state.copy_from_slice(partial),
                (false, false) => dispatch!(self, attention::merge(state, partial)),
            }
        }
    }

    /// out = weighted sum / sum of weights.
    ///
    /// # Safety
    /// As for `attention_merge`.
    unsafe fn write_rows(&self, task: &AttentionTask<'_>, rows: &Range<usize>, states: &[f32]) {
        let (head_dim, stride) = (task.kv.shape.head_dim, task.state_stride());
        for (row, state) in rows.clone().zip(states.chunks_exact(stride)) {
            // SAFETY: the caller's promise.
            let out = unsafe {
                std::slice::from_raw_parts_mut(task.out.add(task.row_offset(row, task.out_stride)), head_dim)
            };
            dispatch!(self, attention::average(state, out));
        }
    }
}
