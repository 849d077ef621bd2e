//! Packed blocks to codes, one byte each, and float32 scales.

use std::arch::x86_64::*;

use super::store8;
use crate::kernels::avx2::vector::Vector;
use crate::kernels::matmul::{ColumnPlace, Lanes, OutlierRow, PanelChunk};
use crate::kernels::simd::outliers;
use crate::quant::{BlockSpec, Format, Layout, PANEL_ROWS, with_format};

/// Bytes that panels are prefetched ahead.
const PREFETCH: usize = 4096;

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn unpack(layout: Layout, block: *const u8, cols: usize, out: &mut PanelChunk) {
    // SAFETY: the caller's columns are whole blocks of a panel.
    with_format!(layout, F => unsafe { unpack_blocks::<F>(block, cols, out) }).expect("dense panels have no blocks")
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack_blocks<F: Format>(first: *const u8, cols: usize, out: &mut PanelChunk) {
    let spec = const { F::SPEC };
    for b in 0..cols / spec.cols {
        // SAFETY: block b lies inside the panel, and its columns inside the chunk.
        unsafe {
            let block = first.add(b * spec.bytes());
            for g in 0..spec.groups() {
                let at = b * spec.groups() + g;
                for half in 0..2 {
                    store8(&mut out.scales[at], half, group_scale(block, spec, g, half));
                    if spec.min {
                        store8(&mut out.mins[at], half, group_min(block, spec, g, half));
                    }
                }
            }
            for g in 0..spec.groups() {
                let codes = block.add(spec.codes_at() + g * spec.group_bytes());
                let to = out.codes.as_mut_ptr().add((b * spec.cols + g * spec.group) * PANEL_ROWS);
                for step in 0..spec.group / 4 {
                    let [first, second] = step_codes(codes, spec, step);
                    _mm256_storeu_si256(to.add(step * 64).cast(), first);
                    _mm256_storeu_si256(to.add(step * 64 + 32).cast(), second);
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn columns(layout: Layout, panel: *const u8, places: &[ColumnPlace], out: &mut [Lanes]) {
    // SAFETY: the caller's columns are the panel's.
    with_format!(layout, F => unsafe { decode_columns::<F>(panel, places, out) }).expect("dense panels have no blocks")
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode_columns<F: Format>(panel: *const u8, places: &[ColumnPlace], out: &mut [Lanes]) {
    let spec = const { F::SPEC };
    for (place, out) in places.iter().zip(out) {
        let ColumnPlace { block, group, step, byte } = *place;
        for half in 0..2 {
            // SAFETY: the block lies inside the panel.
            unsafe {
                let block = panel.add(block);
                let fours = half_codes(block.add(spec.codes_at() + group * spec.group_bytes()), spec, step, half);
                let ones = _mm256_srl_epi32(fours, _mm_cvtsi32_si128(8 * byte as i32));
                let codes = _mm256_and_si256(ones, _mm256_set1_epi32(255));
                let codes = _mm256_sub_epi32(codes, _mm256_set1_epi32(spec.offset));
                let w = _mm256_mul_ps(group_scale(block, spec, group, half), _mm256_cvtepi32_ps(codes));
                let w = if spec.min { _mm256_add_ps(w, group_min(block, spec, group, half)) } else { w };
                store8(out, half, w);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn add_columns(columns: &[Lanes], rows: &[OutlierRow], out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { outliers::add_columns::<Vector>(columns, rows, out, stride) }
}

/// Eight rows' scales of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn group_scale(block: *const u8, spec: BlockSpec, group: usize, half: usize) -> __m256 {
    // SAFETY: offsets of the block's own layout.
    unsafe { group_factor(block, spec, 0, spec.sub_scales_at(), group, half) }
}

/// Eight rows' minima of a group.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn group_min(block: *const u8, spec: BlockSpec, group: usize, half: usize) -> __m256 {
    // SAFETY: offsets of the block's own layout.
    unsafe {
        if !spec.zero {
            return group_factor(block, spec, spec.min_at(), spec.sub_mins_at(), group, half);
        }
        let zeros = _mm_loadu_si128(block.add(spec.min_at() + 16 * half).cast());
        let zeros = _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(zeros));
        _mm256_mul_ps(group_scale(block, spec, group, half), zeros)
    }
}

/// f16 (or bf16) at `at`, times an i8 from `sub` on if there are sub-scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_factor(block: *const u8, spec: BlockSpec, at: usize, sub: usize, group: usize, half: usize) -> __m256 {
    // SAFETY: offsets of the block's own layout.
    unsafe {
        let factor = _mm_loadu_si128(block.add(at + 16 * half).cast());
        let factor = match spec.bf16_scale {
            true => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(factor))),
            false => _mm256_cvtph_ps(factor),
        };
        if !spec.sub_scales {
            return factor;
        }
        let sub = _mm_loadl_epi64(block.add(sub + group * PANEL_ROWS + 8 * half).cast());
        _mm256_mul_ps(factor, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(sub)))
    }
}

/// Codes of columns 4 step .. 4 step + 4 of a group, one byte each, of eight rows and eight more.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn step_codes(codes: *const u8, spec: BlockSpec, step: usize) -> [__m256i; 2] {
    // SAFETY: `codes` has the step's lines.
    unsafe { [half_codes(codes, spec, step, 0), half_codes(codes, spec, step, 1)] }
}

/// The same of one half of the rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn half_codes(codes: *const u8, spec: BlockSpec, step: usize, half: usize) -> __m256i {
    // SAFETY: `codes` has the step's lines.
    unsafe {
        let codes = codes.add(32 * half);
        if spec.bits == 8 {
            return _mm256_loadu_si256(codes.add(step * 64).cast());
        }
        let nibbles = half_nibbles(codes, step);
        let high_bits = spec.high_bits();
        if high_bits > 0 {
            let line = codes.add(spec.plane_bytes(4) + step * high_bits / 8 * 64);
            let high = bits_to_4(_mm256_loadu_si256(line.cast()), step * high_bits % 8);
            let mask = _mm256_set1_epi8(((1 << high_bits) - 1) << 4);
            return _mm256_or_si256(nibbles, _mm256_and_si256(high, mask));
        }
        match spec.values {
            Some(values) => look_up(values, nibbles),
            None => nibbles,
        }
    }
}

/// A step's nibbles of the half of the rows that `codes` begins with.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn half_nibbles(codes: *const u8, step: usize) -> __m256i {
    // SAFETY: the caller's line.
    let line = unsafe { _mm256_loadu_si256(codes.add(step / 2 * 64).cast()) };
    let nibbles = if step.is_multiple_of(2) { line } else { _mm256_srli_epi16::<4>(line) };
    _mm256_and_si256(nibbles, _mm256_set1_epi8(15))
}

/// Moves bit `from` of every byte to bit 4; bits of neighbours come along.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn bits_to_4(line: __m256i, from: usize) -> __m256i {
    match from {
        0 => _mm256_slli_epi16::<4>(line),
        1 => _mm256_slli_epi16::<3>(line),
        2 => _mm256_slli_epi16::<2>(line),
        3 => _mm256_slli_epi16::<1>(line),
        4 => line,
        5 => _mm256_srli_epi16::<1>(line),
        6 => _mm256_srli_epi16::<2>(line),
        _ => _mm256_srli_epi16::<3>(line),
    }
}

/// The table's entry for every nibble.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn look_up(table: &[u8; 16], nibbles: __m256i) -> __m256i {
    // SAFETY: 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles)
}

/// Asks for `bytes` bytes that come a page later: hardware prefetchers stop at pages, small matrices are few pages.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub fn prefetch(codes: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH + at).cast());
    }
}
