//! Scores: q · k for all rows and all positions of a chunk.
//!
//! A score is one chain of multiply-adds over the dimensions in order, whatever the tile.

use super::Element;
use crate::kernels::attention::{BLOCK_SIZE, CHUNK_LEN, Chunk};
use crate::kernels::simd::{F32x16, prefetch};

/// scores (rows, 256) = q · k, for the blocks that some row sees. What is not stored comes out as it may.
///
/// # Safety
/// The chunk's blocks are valid for their shape and hold `E`.
#[inline(always)]
pub(super) unsafe fn compute<S: F32x16, E: Element>(chunk: &Chunk<'_>, q: &[f32], scores: &mut [f32]) {
    assert!(q.len() >= chunk.task.kv.shape.head_dim * chunk.rows.len(), "(head_dim, rows)");
    assert!(scores.len() >= chunk.rows.len() * CHUNK_LEN, "(rows, 256)");
    let mut block = chunk.blocks.start;
    while block < chunk.blocks.end {
        // SAFETY: the caller's promise, and the lengths above.
        unsafe {
            if S::REGISTERS >= 32 && block + 2 <= chunk.blocks.end {
                all_rows::<S, E, 2>(chunk, block, q.as_ptr(), scores.as_mut_ptr());
                block += 2;
            } else {
                all_rows::<S, E, 1>(chunk, block, q.as_ptr(), scores.as_mut_ptr());
                block += 1;
            }
        }
    }
}

/// All rows against `BLOCKS` blocks, in tiles that fit the registers.
///
/// # Safety
/// As for `compute`; the blocks are among the chunk's.
#[inline(always)]
unsafe fn all_rows<S: F32x16, E: Element, const BLOCKS: usize>(
    chunk: &Chunk<'_>,
    block: usize,
    q: *const f32,
    scores: *mut f32,
) {
    let num_rows = chunk.rows.len();
    let mut row = 0;
    while row < num_rows {
        // SAFETY: `row` and the tile's rows after it are below `num_rows`.
        unsafe {
            let (q, scores) = (q.add(row), scores.add(row * CHUNK_LEN));
            match num_rows - row {
                8.. if S::REGISTERS >= 32 => row += tile::<S, E, 8, BLOCKS>(chunk, block, q, scores),
                4.. => row += tile::<S, E, 4, BLOCKS>(chunk, block, q, scores),
                3 => row += tile::<S, E, 3, BLOCKS>(chunk, block, q, scores),
                2 => row += tile::<S, E, 2, BLOCKS>(chunk, block, q, scores),
                _ => row += tile::<S, E, 1, BLOCKS>(chunk, block, q, scores),
            }
        }
    }
}

/// `ROWS` rows against `BLOCKS` blocks. Returns `ROWS`.
///
/// # Safety
/// As for `all_rows`; `q` and `scores` point to the first row.
#[inline(always)]
unsafe fn tile<S: F32x16, E: Element, const ROWS: usize, const BLOCKS: usize>(
    chunk: &Chunk<'_>,
    block: usize,
    mut q: *const f32,
    scores: *mut f32,
) -> usize {
    let mut sums = [[S::splat(0.0); BLOCKS]; ROWS];
    let mut even = [S::splat(0.0); BLOCKS];
    let mut odd = even;
    let mut next = [std::ptr::null(); BLOCKS];
    for b in 0..BLOCKS {
        next[b] = chunk.after_keys(block + b, BLOCKS);
    }
    for pair in 0..chunk.task.kv.shape.head_dim / 2 {
        let at = pair * E::KEY_PAIR_BYTES;
        // SAFETY: the caller's promise: keys have head_dim / 2 pairs, and q has two runs of rows per pair.
        unsafe {
            for b in 0..BLOCKS {
                (even[b], odd[b]) = E::key_pair(chunk.keys[block + b].add(at));
                prefetch(next[b].wrapping_add(at), E::KEY_PAIR_BYTES);
            }
            accumulate(&mut sums, q, &even);
            accumulate(&mut sums, q.add(chunk.rows.len()), &odd);
            q = q.add(2 * chunk.rows.len());
        }
    }
    for row in 0..ROWS {
        for b in 0..BLOCKS {
            // SAFETY: the caller's promise: a row has 256 scores, 16 per block.
            unsafe { sums[row][b].store(scores.add(row * CHUNK_LEN + (block + b) * BLOCK_SIZE)) };
        }
    }
    ROWS
}

/// One dimension's share of the scores.
///
/// # Safety
/// `q` is valid for reading `ROWS` floats.
#[inline(always)]
unsafe fn accumulate<S: F32x16, const ROWS: usize, const BLOCKS: usize>(
    sums: &mut [[S; BLOCKS]; ROWS],
    q: *const f32,
    keys: &[S; BLOCKS],
) {
    for row in 0..ROWS {
        // SAFETY: the caller's promise.
        let q = S::splat(unsafe { *q.add(row) });
        for b in 0..BLOCKS {
            sums[row][b] = q.mul_add(keys[b], sums[row][b]);
        }
    }
}
