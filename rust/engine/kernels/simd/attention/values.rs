//! Weighted sums of values over the positions of a chunk.
//!
//! A sum is one chain of multiply-adds over a row's own positions in order, whatever the tile. Positions that
//! only some rows of a tile see are left to tiles of one row: a weight of zero would let NaN through.

use std::ops::Range;

use super::Element;
use crate::kernels::attention::{BLOCK_SIZE, CHUNK_LEN, Chunk, STATE_HEADER};
use crate::kernels::simd::{F32x16, WIDTH, prefetch};

/// Rows of a tile: their weights (rows, 256) and their sums, `stride` floats apart.
struct Rows {
    weights: *const f32,
    sums: *mut f32,
    stride: usize,
}

impl Rows {
    fn nth(&self, i: usize) -> Self {
        Self {
            weights: self.weights.wrapping_add(i * CHUNK_LEN),
            sums: self.sums.wrapping_add(i * self.stride),
            stride: self.stride,
        }
    }
}

/// Adds weight · value to the sums of all rows.
///
/// # Safety
/// The positions that the rows see are stored, and the blocks hold `E`.
#[inline(always)]
pub(super) unsafe fn accumulate<S: F32x16, E: Element>(
    chunk: &Chunk<'_>,
    weights: &[f32],
    states: &mut [f32],
    stride: usize,
) {
    let num_rows = chunk.rows.len();
    assert!(weights.len() >= num_rows * CHUNK_LEN && states.len() >= num_rows * stride, "rows of whole states");
    let mut row = 0;
    while row < num_rows {
        let rows = Rows {
            weights: weights[row * CHUNK_LEN..].as_ptr(),
            sums: states[row * stride + STATE_HEADER..].as_mut_ptr(),
            stride,
        };
        // SAFETY: the caller's promise; `row` and the tile's rows after it are below `num_rows`.
        unsafe {
            row += match (num_rows - row, S::REGISTERS >= 32) {
                (8.., true) => rows_together::<S, E, 8, 2>(chunk, row, &rows),
                (4.., true) => rows_together::<S, E, 4, 4>(chunk, row, &rows),
                (3, true) => rows_together::<S, E, 3, 4>(chunk, row, &rows),
                (2, true) => rows_together::<S, E, 2, 4>(chunk, row, &rows),
                (4.., false) => rows_together::<S, E, 4, 1>(chunk, row, &rows),
                (3, false) => rows_together::<S, E, 3, 1>(chunk, row, &rows),
                (2, false) => rows_together::<S, E, 2, 2>(chunk, row, &rows),
                _ => rows_together::<S, E, 1, 4>(chunk, row, &rows),
            };
        }
    }
}

/// `ROWS` rows over what they all see, `VECTORS` vectors of dimensions at a time; each alone before and after
/// that. Returns `ROWS`.
///
/// # Safety
/// As for `accumulate`.
#[inline(always)]
unsafe fn rows_together<S: F32x16, E: Element, const ROWS: usize, const VECTORS: usize>(
    chunk: &Chunk<'_>,
    first: usize,
    rows: &Rows,
) -> usize {
    // Both ends of what a row sees grow from row to row.
    let (begin, end) = (chunk.seen(first + ROWS - 1).start, chunk.seen(first).end);
    let common = if begin < end { begin..end } else { CHUNK_LEN..CHUNK_LEN };
    // SAFETY: the caller's promise: each row stays within what it sees.
    unsafe {
        for i in 0..ROWS {
            let seen = chunk.seen(first + i);
            all_dims::<S, E, 1, VECTORS>(chunk, seen.start..seen.end.min(common.start), &rows.nth(i));
        }
        all_dims::<S, E, ROWS, VECTORS>(chunk, common.clone(), rows);
        for i in 0..ROWS {
            all_dims::<S, E, 1, VECTORS>(chunk, common.end..chunk.seen(first + i).end, &rows.nth(i));
        }
    }
    ROWS
}

/// # Safety
/// As for `accumulate`; all `ROWS` rows see the positions.
#[inline(always)]
unsafe fn all_dims<S: F32x16, E: Element, const ROWS: usize, const VECTORS: usize>(
    chunk: &Chunk<'_>,
    positions: Range<usize>,
    rows: &Rows,
) {
    if positions.is_empty() {
        return;
    }
    let head_dim = chunk.task.kv.shape.head_dim;
    let mut d = 0;
    // SAFETY: the caller's promise; the dimensions d .. d + len are the head's.
    unsafe {
        while d + VECTORS * WIDTH <= head_dim {
            tile::<S, E, ROWS, VECTORS>(chunk, positions.clone(), rows, d, WIDTH);
            d += VECTORS * WIDTH;
        }
        while d < head_dim {
            tile::<S, E, ROWS, 1>(chunk, positions.clone(), rows, d, WIDTH.min(head_dim - d));
            d += WIDTH;
        }
    }
}

/// The sums of `ROWS` rows and `VECTORS` vectors of dimensions from `d` on, `len` dimensions in each.
///
/// # Safety
/// As for `all_dims`.
#[inline(always)]
unsafe fn tile<S: F32x16, E: Element, const ROWS: usize, const VECTORS: usize>(
    chunk: &Chunk<'_>,
    positions: Range<usize>,
    rows: &Rows,
    d: usize,
    len: usize,
) {
    let row_bytes = chunk.task.kv.shape.head_dim * size_of::<f32>();
    let mut sums = [[S::splat(0.0); VECTORS]; ROWS];
    // SAFETY: the caller's promise; a state has room for whole vectors of dimensions.
    unsafe {
        for row in 0..ROWS {
            for v in 0..VECTORS {
                sums[row][v] = S::load(rows.sums.add(row * rows.stride + d + v * WIDTH));
            }
        }
        for block in positions.start / BLOCK_SIZE..positions.end.div_ceil(BLOCK_SIZE) {
            let values = chunk.values[block].add(d * size_of::<f32>());
            let next = chunk.after_values(block).wrapping_add(d * size_of::<f32>());
            let end = positions.end.min((block + 1) * BLOCK_SIZE);
            let mut position = positions.start.max(block * BLOCK_SIZE);
            if position % 2 == 1 {
                let row = position % BLOCK_SIZE / E::POSITIONS_PER_ROW * row_bytes;
                step::<S, E, true, ROWS, VECTORS>(&mut sums, rows.weights.add(position), values.add(row), len);
                position += 1;
            }
            while position < end {
                let row = position % BLOCK_SIZE / E::POSITIONS_PER_ROW * row_bytes;
                prefetch(next.wrapping_add(row), VECTORS * 64);
                step::<S, E, false, ROWS, VECTORS>(&mut sums, rows.weights.add(position), values.add(row), len);
                if position + 1 < end {
                    let row = (position + 1) % BLOCK_SIZE / E::POSITIONS_PER_ROW * row_bytes;
                    if E::POSITIONS_PER_ROW == 1 {
                        prefetch(next.wrapping_add(row), VECTORS * 64);
                    }
                    step::<S, E, true, ROWS, VECTORS>(&mut sums, rows.weights.add(position + 1), values.add(row), len);
                }
                position += 2;
            }
        }
        for row in 0..ROWS {
            for v in 0..VECTORS {
                sums[row][v].store(rows.sums.add(row * rows.stride + d + v * WIDTH));
            }
        }
    }
}

/// One position's share of the sums.
///
/// # Safety
/// `weights` points to the position's weight in the first row, `values` to its dimensions in the block.
#[inline(always)]
unsafe fn step<S: F32x16, E: Element, const ODD: bool, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[S; VECTORS]; ROWS],
    weights: *const f32,
    values: *const u8,
    len: usize,
) {
    // Whole vectors need no mask: the constant tells the compiler.
    let len = if VECTORS > 1 { WIDTH } else { len };
    let mut loaded = [S::splat(0.0); VECTORS];
    // SAFETY: the caller's promise.
    unsafe {
        for v in 0..VECTORS {
            loaded[v] = E::value::<S, ODD>(values.add(v * WIDTH * size_of::<f32>()), len);
        }
        for row in 0..ROWS {
            let weight = S::splat(*weights.add(row * CHUNK_LEN));
            for v in 0..VECTORS {
                sums[row][v] = weight.mul_add(loaded[v], sums[row][v]);
            }
        }
    }
}
