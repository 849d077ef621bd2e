//! Scores: q · k for all rows and the positions that they see.

use std::ops::Range;

use super::Element;
use super::tile::{blocks_per_pass, for_each_tile, multiply};
use crate::kernels::attention::{BLOCK_SIZE, CHUNK_LEN, Chunk};
use crate::kernels::simd::F32x16;

/// scores (rows, 256) = q · k, for the blocks that a row sees. What is not stored comes out as it may.
/// `query` tells where a row's (head_dim,) factors are.
///
/// # Safety
/// The queries and the chunk's blocks are valid for their shapes, and the blocks hold `E`.
#[inline(always)]
pub(super) unsafe fn compute<S: F32x16, E: Element<S>>(
    chunk: &Chunk<'_>,
    query: impl Fn(usize) -> *const E::Factor,
    scores: &mut [f32],
) {
    assert!(scores.len() >= chunk.rows.len() * CHUNK_LEN, "(rows, 256)");
    let per_pass = blocks_per_pass(chunk);
    for first in chunk.blocks.clone().step_by(per_pass) {
        let pass = first..chunk.blocks.end.min(first + per_pass);
        let scores = scores.as_mut_ptr();
        // SAFETY: the caller's promise, and the length above.
        unsafe {
            for_each_tile!(S, E, chunk.rows.len(), |row| rows_together(chunk, &query, row, pass.clone(), scores))
        };
    }
}

/// The rows `row ..` against the blocks of `pass` that they see. Returns `ROWS`.
///
/// # Safety
/// As for `compute`; the rows are the chunk's, and `scores` (rows, 256) has room for all of the chunk's.
#[inline(always)]
unsafe fn rows_together<S: F32x16, E: Element<S>, const ROWS: usize, const PANELS: usize>(
    chunk: &Chunk<'_>,
    query: &impl Fn(usize) -> *const E::Factor,
    row: usize,
    pass: Range<usize>,
    scores: *mut f32,
) -> usize {
    // Both ends of what a row sees grow from row to row.
    let seen = chunk.seen(row).start..chunk.seen(row + ROWS - 1).end;
    let end = pass.end.min(seen.end.div_ceil(BLOCK_SIZE));
    let mut block = pass.start.max(seen.start / BLOCK_SIZE);
    // SAFETY: the caller's promise.
    unsafe {
        while block + PANELS <= end {
            tile::<S, E, ROWS, PANELS>(chunk, query, row, block, scores);
            block += PANELS;
        }
        while block < end {
            tile::<S, E, ROWS, 1>(chunk, query, row, block, scores);
            block += 1;
        }
    }
    ROWS
}

/// # Safety
/// As for `rows_together`; the blocks `block ..` are among the chunk's.
#[inline(always)]
unsafe fn tile<S: F32x16, E: Element<S>, const ROWS: usize, const PANELS: usize>(
    chunk: &Chunk<'_>,
    query: &impl Fn(usize) -> *const E::Factor,
    row: usize,
    block: usize,
    scores: *mut f32,
) {
    let mut sums = [[E::zero(); PANELS]; ROWS];
    let factors = std::array::from_fn(|i| query(row + i));
    let panels = std::array::from_fn(|i| chunk.keys[block + i]);
    let ahead = std::array::from_fn(|i| chunk.after_keys[block + i]);
    // SAFETY: the caller's promise: a row has 256 scores, 16 per block.
    unsafe {
        multiply::<S, E, ROWS, PANELS>(&mut sums, factors, panels, ahead, chunk.task.kv.shape.head_dim / 2);
        for i in 0..ROWS {
            for j in 0..PANELS {
                E::store_sum(sums[i][j], scores.add((row + i) * CHUNK_LEN + (block + j) * BLOCK_SIZE));
            }
        }
    }
}
