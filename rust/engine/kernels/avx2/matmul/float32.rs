//! Products with float32 activations, and the decoding of weights for them.

use std::arch::x86_64::*;

use super::{load8, store8};
use crate::kernels::avx2::vector::Vector;
use crate::kernels::matmul::{F32Rows, F32Sums, F32Weights, GroupShape, Lanes, PanelChunk, PanelSums};
use crate::kernels::simd::dense;
use crate::quant::Layout;

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn decode(chunk: &PanelChunk, shape: GroupShape, first_col: usize, out: &mut [Lanes]) {
    let offset = _mm256_set1_epi32(shape.offset);
    for (k, out) in out.iter_mut().enumerate() {
        let (col, group) = (first_col + k, (first_col + k) / shape.group);
        for half in 0..2 {
            // SAFETY: the chunk has the caller's columns.
            unsafe {
                let line = chunk.codes.as_ptr().add(col / 4 * 64 + 32 * half);
                let words = _mm256_srl_epi32(_mm256_load_si256(line.cast()), _mm_cvtsi32_si128((col % 4 * 8) as i32));
                let codes = _mm256_and_si256(words, _mm256_set1_epi32(255));
                let w = _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, offset));
                let mut w = _mm256_mul_ps(load8(&chunk.scales[group], half), w);
                if shape.min {
                    w = _mm256_add_ps(w, load8(&chunk.mins[group], half));
                }
                store8(out, half, w);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn widen(layout: Layout, panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    // SAFETY: the caller's promise.
    unsafe { dense::widen::<Vector>(layout, panel, first_col, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
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

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn f32_tile(w: &F32Weights, x: F32Rows, cols: usize, panels: usize, sums: &mut [F32Sums]) {
    for (p, w) in w[..panels].iter().enumerate() {
        let mut row = 0;
        while row < sums.len() {
            let sums = &mut sums[row..];
            // SAFETY: `x` has sums.len() rows and `cols` columns; each call takes rows that exist.
            row += unsafe {
                let x = F32Rows { ptr: x.ptr.add(row * x.stride), ..x };
                match sums.len() {
                    6.. => f32_rows::<6>(&w[..cols], x, sums, p),
                    4.. => f32_rows::<4>(&w[..cols], x, sums, p),
                    2.. => f32_rows::<2>(&w[..cols], x, sums, p),
                    _ => f32_rows::<1>(&w[..cols], x, sums, p),
                }
            };
        }
    }
}

/// `T` rows against one panel; returns T.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32_rows<const T: usize>(w: &[Lanes], x: F32Rows, sums: &mut [F32Sums], panel: usize) -> usize {
    // SAFETY: `x` has T rows of w.len() columns, and `sums` T rows.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; T];
        for t in 0..T {
            acc[t] = [load8(&sums[t][panel], 0), load8(&sums[t][panel], 1)];
        }
        for (k, w) in w.iter().enumerate() {
            let w = [load8(w, 0), load8(w, 1)];
            for t in 0..T {
                let v = _mm256_set1_ps(*x.ptr.add(t * x.stride + k));
                acc[t] = [_mm256_fmadd_ps(w[0], v, acc[t][0]), _mm256_fmadd_ps(w[1], v, acc[t][1])];
            }
        }
        for t in 0..T {
            store8(&mut sums[t][panel], 0, acc[t][0]);
            store8(&mut sums[t][panel], 1, acc[t][1]);
        }
    }
    T
}
