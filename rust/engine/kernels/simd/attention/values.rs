//! Weighted sums of values over the positions of a chunk.
//!
//! A sum is one chain of multiply-adds over a row's own positions in order, pair by pair where a row sees both, whatever the
//! tile. Positions that only some rows of a tile see are left to single rows: a weight of zero would let NaN through.

use std::ops::Range;

use super::Element;
use super::tile::{blocks_per_pass, for_each_tile, multiply};
use crate::kernels::attention::{BLOCK_SIZE, CHUNK_LEN, Chunk, STATE_HEADER};
use crate::kernels::simd::{F32x16, WIDTH};

/// The weights (rows, 256) and the sums, `stride` floats apart, of all rows.
struct Rows<F> {
    /// Rows lie as far apart as if these were floats.
    weights: *const F,
    sums: *mut f32,
    stride: usize,
}

impl<F> Clone for Rows<F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Rows<F> {}

impl<F> Rows<F> {
    const WEIGHTS_STRIDE: usize = CHUNK_LEN * size_of::<f32>() / size_of::<F>();

    #[inline(always)]
    fn weight(&self, row: usize, position: usize) -> *const F {
        self.weights.wrapping_add(row * Self::WEIGHTS_STRIDE + position)
    }
}

/// Adds weight · value to the sums of all rows. The weights are (rows, 256), each row as long as 256 floats.
///
/// # Safety
/// The weights are valid for their shape; the positions that the rows see are stored, and the blocks hold `E`.
#[inline(always)]
pub(super) unsafe fn accumulate<S: F32x16, E: Element<S>>(
    chunk: &Chunk<'_>,
    weights: *const E::Factor,
    states: &mut [f32],
    stride: usize,
) {
    let num_rows = chunk.rows.len();
    assert!(states.len() >= num_rows * stride, "rows of whole states");
    let rows = Rows { weights, sums: states[STATE_HEADER..].as_mut_ptr(), stride };
    let per_pass = blocks_per_pass(chunk);
    for first in chunk.blocks.clone().step_by(per_pass) {
        let pass = first * BLOCK_SIZE..chunk.blocks.end.min(first + per_pass) * BLOCK_SIZE;
        // SAFETY: the caller's promise, and the length above.
        unsafe { for_each_tile!(S, E, num_rows, |row| rows_together(chunk, row, pass.clone(), rows)) };
    }
}

/// The rows `row ..` over the pairs of positions that they all see; each alone before and after. Returns `ROWS`.
///
/// # Safety
/// As for `accumulate`; the rows are the chunk's.
#[inline(always)]
unsafe fn rows_together<S: F32x16, E: Element<S>, const ROWS: usize, const PANELS: usize>(
    chunk: &Chunk<'_>,
    row: usize,
    pass: Range<usize>,
    rows: Rows<E::Factor>,
) -> usize {
    // Both ends of what a row sees grow from row to row.
    let begin = chunk.seen(row + ROWS - 1).start.next_multiple_of(2);
    let end = chunk.seen(row).end / 2 * 2;
    let common = if begin < end { begin..end } else { CHUNK_LEN..CHUNK_LEN };
    // SAFETY: the caller's promise: each row stays within what it sees.
    unsafe {
        for i in row..row + ROWS {
            one_row::<S, E>(chunk, i, intersect(&pass, &(0..common.start)), rows);
        }
        together::<S, E, ROWS, PANELS>(chunk, row, intersect(&pass, &common), rows);
        for i in row..row + ROWS {
            one_row::<S, E>(chunk, i, intersect(&pass, &(common.end..CHUNK_LEN)), rows);
        }
    }
    ROWS
}

fn intersect(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end)
}

/// # Safety
/// As for `rows_together`; all rows see the positions, which are whole pairs of one pass.
#[inline(always)]
unsafe fn together<S: F32x16, E: Element<S>, const ROWS: usize, const PANELS: usize>(
    chunk: &Chunk<'_>,
    row: usize,
    positions: Range<usize>,
    rows: Rows<E::Factor>,
) {
    let num_panels = chunk.task.kv.shape.value_panels();
    let mut panel = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while panel + PANELS <= num_panels {
            tile::<S, E, ROWS, PANELS>(chunk, row, positions.clone(), panel, rows);
            panel += PANELS;
        }
        while panel < num_panels {
            tile::<S, E, ROWS, 1>(chunk, row, positions.clone(), panel, rows);
            panel += 1;
        }
    }
}

/// The sums of `ROWS` rows and `PANELS` panels of sixteen dimensions.
///
/// # Safety
/// As for `together`.
#[inline(always)]
unsafe fn tile<S: F32x16, E: Element<S>, const ROWS: usize, const PANELS: usize>(
    chunk: &Chunk<'_>,
    row: usize,
    positions: Range<usize>,
    panel: usize,
    rows: Rows<E::Factor>,
) {
    let mut sums = [[E::zero(); PANELS]; ROWS];
    let place = |i: usize, j: usize| rows.sums.wrapping_add((row + i) * rows.stride + (panel + j) * WIDTH);
    // SAFETY: the caller's promise; a state has room for whole panels.
    unsafe {
        for i in 0..ROWS {
            for j in 0..PANELS {
                sums[i][j] = E::load_sum(place(i, j));
            }
        }
        for block in positions.start / BLOCK_SIZE..positions.end.div_ceil(BLOCK_SIZE) {
            let part = intersect(&positions, &(block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE));
            let within = |j: usize| ((panel + j) * BLOCK_SIZE + part.start % BLOCK_SIZE) / 2 * E::PAIR_BYTES;
            let factors = std::array::from_fn(|i| rows.weight(row + i, part.start));
            let panels = std::array::from_fn(|j| chunk.values[block].wrapping_add(within(j)));
            let ahead = std::array::from_fn(|j| chunk.after_values[block].wrapping_add(within(j)));
            multiply::<S, E, ROWS, PANELS>(&mut sums, factors, panels, ahead, part.len() / 2);
        }
        for i in 0..ROWS {
            for j in 0..PANELS {
                E::store_sum(sums[i][j], place(i, j));
            }
        }
    }
}

/// Adds the positions that row `row` sees of these.
///
/// # Safety
/// As for `accumulate`.
#[inline(always)]
unsafe fn one_row<S: F32x16, E: Element<S>>(
    chunk: &Chunk<'_>,
    row: usize,
    positions: Range<usize>,
    rows: Rows<E::Factor>,
) {
    let positions = intersect(&positions, &chunk.seen(row));
    if positions.is_empty() {
        return;
    }
    for panel in 0..chunk.task.kv.shape.value_panels() {
        let place = rows.sums.wrapping_add(row * rows.stride + panel * WIDTH);
        // SAFETY: the caller's promise; a state has room for whole panels.
        unsafe {
            let mut sum = E::load_sum(place);
            let mut position = positions.start;
            while position < positions.end {
                let at = (panel * BLOCK_SIZE + position % BLOCK_SIZE) / 2 * E::PAIR_BYTES;
                let pair = E::load_pair(chunk.values[position / BLOCK_SIZE].add(at));
                if position.is_multiple_of(2) && position + 1 < positions.end {
                    sum = E::add_pair(sum, rows.weight(row, position), pair);
                    position += 2;
                } else {
                    sum = E::add_row(sum, *rows.weight(row, position), pair, position % 2);
                    position += 1;
                }
            }
            E::store_sum(sum, place);
        }
    }
}
