//! Packed blocks to codes, one byte each, and float32 scales.

use std::arch::x86_64::*;

use super::store16;
use crate::kernels::avx512::vector::Vector;
use crate::kernels::matmul::{ColumnPlace, Lanes, OutlierRow, PanelChunk};
use crate::kernels::simd::outliers;
use crate::quant::{BlockSpec, Format, Layout, PANEL_ROWS, with_format};

/// Bytes that panels are prefetched ahead.
const PREFETCH: usize = 4096;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn unpack(layout: Layout, block: *const u8, cols: usize, out: &mut PanelChunk) {
    // SAFETY: the caller's columns are whole blocks of a panel.
    with_format!(layout, F => unsafe { unpack_blocks::<F>(block, cols, out) }).expect("dense panels have no blocks")
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpack_blocks<F: Format>(first: *const u8, cols: usize, out: &mut PanelChunk) {
    let spec = const { F::SPEC };
    for b in 0..cols / spec.cols {
        // SAFETY: block b lies inside the panel, and its columns inside the chunk.
        unsafe {
            let block = first.add(b * spec.bytes());
            for g in 0..spec.groups() {
                let at = b * spec.groups() + g;
                prefetch(block.add(spec.codes_at() + g * spec.group_bytes()), spec.group_bytes());
                store16(&mut out.scales[at], group_scale(block, spec, g));
                if spec.min {
                    store16(&mut out.mins[at], group_min(block, spec, g));
                }
            }
            for g in 0..spec.groups() {
                let codes = block.add(spec.codes_at() + g * spec.group_bytes());
                let to = out.codes.as_mut_ptr().add((b * spec.cols + g * spec.group) * PANEL_ROWS);
                for step in 0..spec.group / 4 {
                    _mm512_storeu_si512(to.add(step * 64).cast(), step_codes(codes, spec, step));
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn columns(layout: Layout, panel: *const u8, places: &[ColumnPlace], out: &mut [Lanes]) {
    // SAFETY: the caller's columns are the panel's.
    with_format!(layout, F => unsafe { decode_columns::<F>(panel, places, out) }).expect("dense panels have no blocks")
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn decode_columns<F: Format>(panel: *const u8, places: &[ColumnPlace], out: &mut [Lanes]) {
    let spec = const { F::SPEC };
    for (place, out) in places.iter().zip(out) {
        let ColumnPlace { block, group, step, byte } = *place;
        // SAFETY: the block lies inside the panel.
        unsafe {
            let block = panel.add(block);
            let fours = step_codes(block.add(spec.codes_at() + group * spec.group_bytes()), spec, step);
            let ones = _mm512_srl_epi32(fours, _mm_cvtsi32_si128(8 * byte as i32));
            let codes = _mm512_and_si512(ones, _mm512_set1_epi32(255));
            let codes = _mm512_sub_epi32(codes, _mm512_set1_epi32(spec.offset));
            let w = _mm512_mul_ps(group_scale(block, spec, group), _mm512_cvtepi32_ps(codes));
            store16(out, if spec.min { _mm512_add_ps(w, group_min(block, spec, group)) } else { w });
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn add_columns(columns: &[Lanes], rows: &[OutlierRow], out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe { outliers::add_columns::<Vector>(columns, rows, out, stride) }
}

/// 16 rows' scales of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn group_scale(block: *const u8, spec: BlockSpec, group: usize) -> __m512 {
    // SAFETY: offsets of the block's own layout.
    unsafe { group_factor(block, spec, 0, spec.sub_scales_at(), group) }
}

/// 16 rows' minima of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn group_min(block: *const u8, spec: BlockSpec, group: usize) -> __m512 {
    // SAFETY: offsets of the block's own layout.
    unsafe {
        if !spec.zero {
            return group_factor(block, spec, spec.min_at(), spec.sub_mins_at(), group);
        }
        _mm512_mul_ps(group_scale(block, spec, group), zeros(block, spec))
    }
}

/// 16 rows' minima in a layout that has them as multiples of the scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn zeros(block: *const u8, spec: BlockSpec) -> __m512 {
    // SAFETY: offsets of the block's own layout.
    let zeros = unsafe { _mm256_loadu_si256(block.add(spec.min_at()).cast()) };
    _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(zeros))
}

/// f16 (or bf16) at `at`, times an i8 from `sub` on if there are sub-scales.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn group_factor(block: *const u8, spec: BlockSpec, at: usize, sub: usize, group: usize) -> __m512 {
    // SAFETY: offsets of the block's own layout.
    unsafe {
        let factor = _mm256_loadu_si256(block.add(at).cast());
        let factor = match spec.bf16_scale {
            true => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(factor))),
            false => _mm512_cvtph_ps(factor),
        };
        if !spec.sub_scales {
            return factor;
        }
        let sub = _mm_loadu_si128(block.add(sub + group * PANEL_ROWS).cast());
        _mm512_mul_ps(factor, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sub)))
    }
}

/// Codes of columns 4 step .. 4 step + 4 of a group, one byte each, of 16 rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn step_codes(codes: *const u8, spec: BlockSpec, step: usize) -> __m512i {
    // SAFETY: `codes` has the step's lines.
    unsafe {
        if spec.bits == 8 {
            return _mm512_loadu_si512(codes.add(step * 64).cast());
        }
        let line = _mm512_loadu_si512(codes.add(step / 2 * 64).cast());
        let nibbles = if step.is_multiple_of(2) { line } else { _mm512_srli_epi16::<4>(line) };
        let nibbles = _mm512_and_si512(nibbles, _mm512_set1_epi8(15));
        let high_bits = spec.high_bits();
        if high_bits > 0 {
            let line = codes.add(spec.plane_bytes(4) + step * high_bits / 8 * 64);
            let high = bits_to_4(_mm512_loadu_si512(line.cast()), step * high_bits % 8);
            let mask = _mm512_set1_epi8(((1 << high_bits) - 1) << 4);
            // nibbles | (high & mask)
            return _mm512_ternarylogic_epi32::<0xF8>(nibbles, high, mask);
        }
        match spec.values {
            Some(values) => {
                let table = _mm512_broadcast_i32x4(_mm_loadu_si128(values.as_ptr().cast()));
                _mm512_shuffle_epi8(table, nibbles)
            }
            None => nibbles,
        }
    }
}

/// Moves bit `from` of every byte to bit 4; bits of neighbours come along.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn bits_to_4(line: __m512i, from: usize) -> __m512i {
    match from {
        0 => _mm512_slli_epi16::<4>(line),
        1 => _mm512_slli_epi16::<3>(line),
        2 => _mm512_slli_epi16::<2>(line),
        3 => _mm512_slli_epi16::<1>(line),
        4 => line,
        5 => _mm512_srli_epi16::<1>(line),
        6 => _mm512_srli_epi16::<2>(line),
        _ => _mm512_srli_epi16::<3>(line),
    }
}

/// Asks for `bytes` bytes that come a page later: hardware prefetchers stop at pages, small matrices are few pages.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub fn prefetch(codes: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(PREFETCH + at).cast());
    }
}
