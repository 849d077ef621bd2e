//! Products of int8 activations and weights whose rows have one scale each. vpmaddubsw multiplies magnitudes of weights with
//! activations that have taken their signs: pairs of such products fit 16 bits.

use std::arch::x86_64::*;
use std::ops::Range;

use super::unpack::prefetch;
use crate::kernels::matmul::{Int8Rows, PanelSums, WIDE_GROUP};
use crate::quant::{Layout, PANEL_ROWS, ROW_OFFSET, ROW_SCALES};

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn panels(_: Layout, panels: &[*const u8], cols: usize, x: Int8Rows, rows: usize, out: &mut [PanelSums]) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            1 => multiply::<1>(panels, cols, x, out),
            2 => multiply::<2>(panels, cols, x, out),
            3 => multiply::<3>(panels, cols, x, out),
            _ => multiply::<4>(panels, cols, x, out),
        }
    }
}

/// `T` rows against these panels, a group of each in turn: memory is read faster in several streams than in one.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn multiply<const T: usize>(panels: &[*const u8], cols: usize, x: Int8Rows, out: &mut [PanelSums]) {
    out.iter_mut().for_each(|out| out[..T].fill([0.0; PANEL_ROWS]));
    for first in (0..cols).step_by(WIDE_GROUP) {
        for (panel, out) in panels.iter().zip(&mut *out) {
            // SAFETY: the panel and the T rows have these columns.
            unsafe { add_group::<T>(panel.add(ROW_SCALES), first..cols.min(first + WIDE_GROUP), x, out) };
        }
    }
    for (panel, out) in panels.iter().zip(out) {
        // SAFETY: the panel starts with its scales.
        let scales = [0, 8].map(|at| unsafe { _mm256_loadu_ps(panel.cast::<f32>().add(at)) });
        for (out, scale) in out[..T].iter_mut().flat_map(|out| out.as_chunks_mut::<8>().0.iter_mut().zip(scales)) {
            // SAFETY: eight floats.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(_mm256_loadu_ps(out.as_ptr()), scale)) };
        }
    }
}

/// Adds the products of a wide group's columns, times the activations' scale.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_group<const T: usize>(codes: *const u8, cols: Range<usize>, x: Int8Rows, out: &mut PanelSums) {
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for col in cols.clone().step_by(4) {
        // SAFETY: the caller's columns.
        unsafe {
            let codes = codes.add(col * PANEL_ROWS);
            prefetch(codes, 4 * PANEL_ROWS);
            for half in 0..2 {
                let codes = _mm256_loadu_si256(codes.add(32 * half).cast());
                let w = _mm256_xor_si256(codes, _mm256_set1_epi8(ROW_OFFSET as i8));
                let size = _mm256_abs_epi8(w);
                for t in 0..T {
                    let q = x.codes.add(t * x.code_stride + col).cast::<i32>().read_unaligned();
                    let signed = _mm256_sign_epi8(_mm256_set1_epi32(q), w);
                    let pairs = _mm256_madd_epi16(_mm256_maddubs_epi16(size, signed), _mm256_set1_epi16(1));
                    sums[t][half] = _mm256_add_epi32(sums[t][half], pairs);
                }
            }
        }
    }
    for t in 0..T {
        for half in 0..2 {
            // SAFETY: the caller's columns; eight floats of sixteen.
            unsafe {
                let x_scale = _mm256_set1_ps(*x.scales.add(t * x.scale_stride + cols.start / 32));
                let out = out[t].as_mut_ptr().add(8 * half);
                let total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums[t][half]), x_scale, _mm256_loadu_ps(out));
                _mm256_storeu_ps(out, total);
            }
        }
    }
}
