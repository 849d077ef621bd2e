//! Products with float32 activations, and the decoding of weights for them.

use std::arch::x86_64::*;

use super::{load16, store16};
use crate::kernels::avx512::vector::Vector;
use crate::kernels::matmul::{F32Rows, F32Sums, F32Weights, GroupShape, Lanes, PanelChunk, PanelSums};
use crate::kernels::simd::dense;
use crate::quant::Layout;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn decode(chunk: &PanelChunk, shape: GroupShape, first_col: usize, out: &mut [Lanes]) {
    let offset = _mm512_set1_epi32(shape.offset);
    for (i, out) in out.chunks_mut(shape.group).enumerate() {
        let first = first_col + i * shape.group;
        let (scale, min) = (load16(&chunk.scales[first / shape.group]), load16(&chunk.mins[first / shape.group]));
        for (step, out) in out.chunks_exact_mut(4).enumerate() {
            // SAFETY: the chunk has the caller's columns.
            let mut words = unsafe { _mm512_load_si512(chunk.codes.as_ptr().add((first + 4 * step) * 16).cast()) };
            for out in out {
                let code = _mm512_and_si512(words, _mm512_set1_epi32(255));
                let w = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_sub_epi32(code, offset)));
                store16(out, if shape.min { _mm512_add_ps(w, min) } else { w });
                words = _mm512_srli_epi32::<8>(words);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn widen(layout: Layout, panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    // SAFETY: the caller's promise.
    unsafe { dense::widen::<Vector>(layout, panel, first_col, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn dense_panels(
    layout: Layout,
    panels: &[*const u8],
    cols: usize,
    x: F32Rows,
    rows: usize,
    out: &mut [PanelSums],
) {
    // SAFETY: the caller's promise.
    unsafe { dense::panels::<Vector>(layout, panels, cols, x, rows, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn f32_tile(w: &F32Weights, x: F32Rows, cols: usize, panels: usize, sums: &mut [F32Sums]) {
    // SAFETY: the caller's promise.
    unsafe {
        match panels {
            1 => tile::<1>(w, x, cols, sums),
            2 => tile::<2>(w, x, cols, sums),
            3 => tile::<3>(w, x, cols, sums),
            _ => tile::<4>(w, x, cols, sums),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const P: usize>(w: &F32Weights, x: F32Rows, cols: usize, sums: &mut [F32Sums]) {
    let mut row = 0;
    while row < sums.len() {
        let sums = &mut sums[row..];
        // SAFETY: `x` has sums.len() rows; each call takes rows that exist.
        row += unsafe {
            let x = F32Rows { ptr: x.ptr.add(row * x.stride), ..x };
            match sums.len() {
                4.. => tile_rows::<P, 4>(w, x, cols, sums),
                2.. => tile_rows::<P, 2>(w, x, cols, sums),
                _ => tile_rows::<P, 1>(w, x, cols, sums),
            }
        };
    }
}

/// `T` rows against `P` decoded panels; returns T.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile_rows<const P: usize, const T: usize>(
    w: &F32Weights,
    x: F32Rows,
    cols: usize,
    sums: &mut [F32Sums],
) -> usize {
    let mut acc = [[_mm512_setzero_ps(); P]; T];
    for t in 0..T {
        for p in 0..P {
            acc[t][p] = load16(&sums[t][p]);
        }
    }
    for k in 0..cols {
        let mut column = [_mm512_setzero_ps(); P];
        for p in 0..P {
            column[p] = load16(&w[p][k]);
        }
        for t in 0..T {
            // SAFETY: `x` has T rows of `cols` columns.
            let v = _mm512_set1_ps(unsafe { *x.ptr.add(t * x.stride + k) });
            for p in 0..P {
                acc[t][p] = _mm512_fmadd_ps(column[p], v, acc[t][p]);
            }
        }
    }
    for t in 0..T {
        for p in 0..P {
            store16(&mut sums[t][p], acc[t][p]);
        }
    }
    T
}
