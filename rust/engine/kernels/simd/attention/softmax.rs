//! From scores to weights.
//!
//! A row's numbers are made in one order, whatever rows are beside it; those of several rows are made together, since
//! one alone leaves the machine waiting for its maximum and its sum.

use std::array::from_fn;
use std::ops::Range;

use super::Element;
use crate::kernels::attention::{CHUNK_LEN, Chunk, MAX, SUM};
use crate::kernels::simd::{F32x16, WIDTH, math};

/// Scores of a row.
type Scores = [f32; CHUNK_LEN];

/// Turns the dot products (rows, 256) of what each row sees, each times `scale`, into weights 2^(score - greatest), scores
/// being in powers of two: factors of `E`, from where a row's scores begin. The greatest score and the sum of the
/// weights come into a row's state.
#[inline(always)]
pub(super) fn weigh<S: F32x16, E: Element<S>>(
    chunk: &Chunk<'_>,
    scale: f32,
    scores: &mut [f32],
    states: &mut [f32],
    stride: usize,
) {
    let mut row = 0;
    let num_rows = chunk.rows.len();
    let (scores, _) = scores.as_chunks_mut();
    while row < num_rows {
        let vectors = vectors(&chunk.seen(row));
        let alike = (row..num_rows.min(row + 4)).take_while(|&row| self::vectors(&chunk.seen(row)) == vectors).count();
        let (scores, states) = (&mut scores[row..], &mut states[row * stride..]);
        row += match alike {
            4 if S::REGISTERS >= 32 => weigh_rows::<S, E, 4>(chunk, row, scale, scores, states, stride),
            3 if S::REGISTERS >= 32 => weigh_rows::<S, E, 3>(chunk, row, scale, scores, states, stride),
            _ => weigh_rows::<S, E, 1>(chunk, row, scale, scores, states, stride),
        };
    }
}

/// The same for the rows `row ..`, whose scores and states these are; they see the same vectors. Returns `ROWS`.
#[inline(always)]
fn weigh_rows<S: F32x16, E: Element<S>, const ROWS: usize>(
    chunk: &Chunk<'_>,
    row: usize,
    scale: f32,
    scores: &mut [Scores],
    states: &mut [f32],
    stride: usize,
) -> usize {
    let scores = scores.first_chunk_mut::<ROWS>().expect("scores of each row");
    let scale = match chunk.task.softcap {
        Some(cap) => {
            scores
                .iter_mut()
                .enumerate()
                .for_each(|(i, scores)| softcap::<S>(&chunk.seen(row + i), scores, scale, cap));
            std::f32::consts::LOG2_E
        }
        None => scale * std::f32::consts::LOG2_E,
    };
    for (i, scores) in scores.iter_mut().enumerate() {
        hide_edges::<S>(&chunk.seen(row + i), scores, -f32::INFINITY.copysign(scale));
    }
    let vectors = vectors(&chunk.seen(row));
    let max = greatest::<S, ROWS>(vectors.clone(), scale, scores);
    let sum = exponentiate::<S, E, ROWS>(vectors, scale, max, scores);
    for i in 0..ROWS {
        (states[i * stride + MAX], states[i * stride + SUM]) = (max[i], sum[i]);
    }
    ROWS
}

#[inline(always)]
fn greatest<S: F32x16, const ROWS: usize>(vectors: Range<usize>, scale: f32, scores: &[Scores; ROWS]) -> [f32; ROWS] {
    let mut greatest = [S::splat(f32::NEG_INFINITY); ROWS];
    let scores: [_; ROWS] = from_fn(|row| &scores[row].as_chunks::<WIDTH>().0[vectors.clone()]);
    for i in 0..vectors.len() {
        for row in 0..ROWS {
            greatest[row] = S::read(&scores[row][i]).mul(S::splat(scale)).max(greatest[row]);
        }
    }
    let mut max = [0.0; ROWS];
    for row in 0..ROWS {
        max[row] = greatest[row].greatest();
    }
    max
}

/// Returns the sums of the weights.
#[inline(always)]
fn exponentiate<S: F32x16, E: Element<S>, const ROWS: usize>(
    vectors: Range<usize>,
    scale: f32,
    max: [f32; ROWS],
    scores: &mut [Scores; ROWS],
) -> [f32; ROWS] {
    const { assert!(size_of::<E::Factor>() <= size_of::<f32>()) };
    assert!(vectors.end <= CHUNK_LEN / WIDTH, "positions of one chunk");
    let mut sums = [S::splat(0.0); ROWS];
    for i in vectors {
        for row in 0..ROWS {
            let scores = scores[row].as_mut_ptr();
            // SAFETY: vectors of the row's scores, of which none is read after a factor was written there.
            unsafe {
                let weight = math::exp2(S::load(scores.add(i * WIDTH)).mul_add(S::splat(scale), S::splat(-max[row])));
                sums[row] = sums[row].add(weight);
                E::store_factors(weight, scores.cast::<E::Factor>().add(i * WIDTH));
            }
        }
    }
    let mut totals = [0.0; ROWS];
    for row in 0..ROWS {
        totals[row] = sums[row].sum();
    }
    totals
}

/// The vectors of scores that hold `seen`.
pub(super) fn vectors(seen: &Range<usize>) -> Range<usize> {
    seen.start / WIDTH..seen.end.div_ceil(WIDTH)
}

/// Score = cap * tanh(dot * scale / cap).
#[inline(always)]
fn softcap<S: F32x16>(seen: &Range<usize>, scores: &mut Scores, scale: f32, cap: f32) {
    for scores in &mut scores.as_chunks_mut::<WIDTH>().0[vectors(seen)] {
        math::softcap(S::read(scores).mul(S::splat(scale)), S::splat(cap)).write(scores);
    }
}

/// Positions outside `seen` that share a vector with it are not stored, or not this row's to see: whatever
/// stands there gives way to `hidden`.
#[inline(always)]
fn hide_edges<S: F32x16>(seen: &Range<usize>, scores: &mut Scores, hidden: f32) {
    if seen.is_empty() {
        return;
    }
    for i in [seen.start / WIDTH, (seen.end - 1) / WIDTH] {
        let lanes = seen.start.saturating_sub(i * WIDTH)..(seen.end - i * WIDTH).min(WIDTH);
        let scores = &mut scores.as_chunks_mut::<WIDTH>().0[i];
        S::read(scores).keep_lanes(lanes.start, lanes.end, S::splat(hidden)).write(scores);
    }
}
