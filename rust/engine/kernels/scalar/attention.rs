//! Attention over one chunk: the specification.

use half::{bf16, f16};

use crate::config::KvDtype;
use crate::kernels::KvShape;
use crate::kernels::attention::store::Bf16Slot;
use crate::kernels::attention::{BLOCK_SIZE, CHUNK_LEN, Chunk, MAX, STATE_HEADER, SUM};
use crate::quant::e4m3;

/// The states (rows, state_stride) of the chunk's rows after its positions alone.
///
/// # Safety
/// The queries are valid, and the blocks that the rows see are valid for their shape and stored.
pub(in crate::kernels) unsafe fn chunk_partial(chunk: &Chunk<'_>, scores: &mut [f32], partial: &mut [f32]) {
    let num_rows = chunk.rows.len();
    let stride = partial.len() / num_rows;
    let rows = scores.chunks_exact_mut(CHUNK_LEN).zip(partial.chunks_exact_mut(stride)).take(num_rows);
    for (row, (scores, state)) in rows.enumerate() {
        state.fill(0.0);
        state[MAX] = f32::NEG_INFINITY;
        for position in chunk.seen(row) {
            // SAFETY: the row sees the position, so that it is stored.
            scores[position] = unsafe { score(chunk, row, position) };
            state[MAX] = state[MAX].max(scores[position]);
        }
        for position in chunk.seen(row) {
            let weight = (scores[position] - state[MAX]).exp();
            state[SUM] += weight;
            for d in 0..chunk.task.kv.shape.head_dim {
                // SAFETY: as above.
                state[STATE_HEADER + d] += weight * unsafe { value(chunk, position, d) };
            }
        }
    }
}

/// Adds `partial` to `state`; both have seen something.
pub(in crate::kernels) fn merge(state: &mut [f32], partial: &[f32]) {
    let max = state[MAX].max(partial[MAX]);
    let (keep, take) = ((state[MAX] - max).exp(), (partial[MAX] - max).exp());
    state[MAX] = max;
    state[SUM] = state[SUM] * keep + partial[SUM] * take;
    for (state, partial) in state[STATE_HEADER..].iter_mut().zip(&partial[STATE_HEADER..]) {
        *state = *state * keep + partial * take;
    }
}

/// out = sums of weighted values / sum of weights.
pub(in crate::kernels) fn average(state: &[f32], out: &mut [f32]) {
    let factor = 1.0 / state[SUM];
    out.iter_mut().zip(&state[STATE_HEADER..]).for_each(|(out, sum)| *out = sum * factor);
}

/// # Safety
/// As for `Bf16Slot::store`.
pub(in crate::kernels) unsafe fn store_bf16(to: Bf16Slot, k: &[f32], v: &[f32]) {
    // SAFETY: the caller's promise.
    unsafe { to.store(k, v) }
}

/// # Safety
/// The position is stored.
unsafe fn score(chunk: &Chunk<'_>, row: usize, position: usize) -> f32 {
    let (task, q) = (chunk.task, chunk.query(row));
    // SAFETY: the caller's promise.
    let product = |d| unsafe { *q.add(d) * key(chunk, position, d) };
    let dot: f32 = (0..task.kv.shape.head_dim).map(product).sum();
    let score = dot * task.scale;
    task.softcap.map_or(score, |cap| cap * (score / cap).tanh())
}

/// # Safety
/// The position is stored.
unsafe fn key(chunk: &Chunk<'_>, position: usize, d: usize) -> f32 {
    let (shape, slot) = (&chunk.task.kv.shape, position % BLOCK_SIZE);
    // SAFETY: the index lies within the head's keys of the block.
    unsafe { element(chunk.keys[position / BLOCK_SIZE], shape, slot, shape.key_index(slot, d)) }
}

/// # Safety
/// The position is stored.
unsafe fn value(chunk: &Chunk<'_>, position: usize, d: usize) -> f32 {
    let (shape, slot) = (&chunk.task.kv.shape, position % BLOCK_SIZE);
    // SAFETY: the index lies within the head's values of the block.
    unsafe { element(chunk.values[position / BLOCK_SIZE], shape, slot, shape.value_index(slot, d)) }
}

/// Element `i`, which belongs to position `slot` of the block.
///
/// # Safety
/// `piece` is one of this shape, and the index lies within it.
unsafe fn element(piece: *const u8, shape: &KvShape, slot: usize, i: usize) -> f32 {
    // SAFETY: the caller's promise; a piece of int8 ends with a scale per slot.
    unsafe {
        match shape.dtype {
            KvDtype::F32 => piece.cast::<f32>().add(i).read(),
            KvDtype::F16 => piece.cast::<f16>().add(i).read().to_f32(),
            KvDtype::Bf16 => piece.cast::<bf16>().add(i).read().to_f32(),
            KvDtype::Fp8 => e4m3::decode(piece.add(i).read()),
            KvDtype::Int8 => {
                let scale = piece.add(shape.scales_at()).cast::<f32>().add(slot).read();
                f32::from(piece.cast::<i8>().add(i).read()) * scale
            }
        }
    }
}
