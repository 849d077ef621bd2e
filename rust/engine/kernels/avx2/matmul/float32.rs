//! Products with float32 activations, and the decoding of weights for them.

use std::arch::x86_64::*;

use super::{load8, store8};
use crate::kernels::avx2::vector::e4m3_to_f16;
use crate::kernels::matmul::{F32Rows, F32Sums, F32Weights, GroupShape, Lanes, PanelChunk};
use crate::quant::{F8_BYTES, F8_COLS, F8_SCALES, Layout, PANEL_ROWS};

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
unsafe fn widen_f8(panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    for (k, out) in out.iter_mut().enumerate() {
        let (block, col) = ((first_col + k) / F8_COLS, (first_col + k) % F8_COLS);
        // SAFETY: the caller's columns lie inside the panel.
        unsafe {
            let block = panel.add(block * F8_BYTES);
            let halves = e4m3_to_f16(_mm_loadu_si128(block.add(F8_SCALES + col * PANEL_ROWS).cast()));
            for (half, eight) in
                [_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves)].into_iter().enumerate()
            {
                let values = _mm256_mul_ps(_mm256_cvtph_ps(eight), _mm256_set1_ps(256.0));
                let scales = _mm256_loadu_ps(block.cast::<f32>().add(8 * half));
                store8(out, half, _mm256_mul_ps(scales, values));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn widen(layout: Layout, panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    if layout == Layout::F8 {
        // SAFETY: the caller's promise.
        return unsafe { widen_f8(panel, first_col, out) };
    }
    for (k, out) in out.iter_mut().enumerate() {
        for half in 0..2 {
            let at = (first_col + k) * PANEL_ROWS + 8 * half;
            // SAFETY: the caller's columns lie inside the panel.
            unsafe {
                let w = match layout {
                    Layout::F32 => _mm256_loadu_ps(panel.cast::<f32>().add(at)),
                    Layout::F16 => _mm256_cvtph_ps(_mm_loadu_si128(panel.add(2 * at).cast())),
                    _ => {
                        let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(panel.add(2 * at).cast()));
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
                    }
                };
                store8(out, half, w);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn f32_tile(w: &F32Weights, x: F32Rows, cols: usize, panels: usize, sums: &mut [F32Sums]) {
    for (p, w) in w[..panels].iter().enumerate() {
        for (i, sums) in sums.chunks_mut(6).enumerate() {
            // SAFETY: `x` has sums.len() rows and `cols` columns.
            unsafe {
                let first = x.ptr.add(6 * i * x.stride);
                match sums.len() {
                    6 => f32_rows::<6>(&w[..cols], first, x.stride, sums, p),
                    n => (0..n)
                        .for_each(|t| f32_rows::<1>(&w[..cols], first.add(t * x.stride), x.stride, &mut sums[t..], p)),
                }
            }
        }
    }
}

/// `T` rows against one panel.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32_rows<const T: usize>(w: &[Lanes], x: *const f32, stride: usize, sums: &mut [F32Sums], panel: usize) {
    // SAFETY: `x` has T rows of w.len() columns, and `sums` T rows.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; T];
        for t in 0..T {
            acc[t] = [load8(&sums[t][panel], 0), load8(&sums[t][panel], 1)];
        }
        for (k, w) in w.iter().enumerate() {
            let w = [load8(w, 0), load8(w, 1)];
            for t in 0..T {
                let v = _mm256_set1_ps(*x.add(t * stride + k));
                acc[t] = [_mm256_fmadd_ps(w[0], v, acc[t][0]), _mm256_fmadd_ps(w[1], v, acc[t][1])];
            }
        }
        for t in 0..T {
            store8(&mut sums[t][panel], 0, acc[t][0]);
            store8(&mut sums[t][panel], 1, acc[t][1]);
        }
    }
}
