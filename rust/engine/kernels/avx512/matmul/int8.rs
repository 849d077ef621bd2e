//! Products with int8 activations. Codes are vpdpbusd's unsigned operand, four columns of an activation row
//! its signed one, broadcast: a register accumulates 16 rows of weights, and nothing is summed across lanes.

use std::arch::x86_64::*;

use super::unpack::{group_min, group_scale, prefetch, step_codes};
use super::{load16, store16};
use crate::kernels::matmul::{GroupShape, Int8Rows, Int8Sums, PanelChunk, PanelSums};
use crate::kernels::simd::opaque;
use crate::quant::{Format, Layout, with_format};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn int8_panels(
    layout: Layout,
    panels: &[*const u8],
    cols: usize,
    x: Int8Rows,
    rows: usize,
    out: &mut [PanelSums],
) {
    // SAFETY: the caller's promise.
    with_format!(layout, F => unsafe {
        match rows {
            1 => panel_rows::<F, 1>(panels, cols, x, out),
            2 => panel_rows::<F, 2>(panels, cols, x, out),
            3 => panel_rows::<F, 3>(panels, cols, x, out),
            _ => panel_rows::<F, 4>(panels, cols, x, out),
        }
    })
    .expect("dense panels have no codes")
}

/// `T` rows against packed panels, a group of each in turn: memory is read faster in several streams than in one.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn panel_rows<F: Format, const T: usize>(panels: &[*const u8], cols: usize, x: Int8Rows, out: &mut [PanelSums]) {
    let spec = const { F::SPEC };
    for b in 0..cols / spec.cols {
        for g in 0..spec.groups() {
            for (panel, sums) in panels.iter().zip(&mut *out) {
                // SAFETY: block b lies inside the panel; `x` has T rows of `cols` columns.
                unsafe { panel_group::<F, T>(panel.add(b * spec.bytes()), g, x, b * spec.groups() + g, sums) };
            }
        }
    }
}

/// Adds the products of a block's group `g`, the panel's group `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn panel_group<F: Format, const T: usize>(
    block: *const u8,
    g: usize,
    x: Int8Rows,
    at: usize,
    sums: &mut PanelSums,
) {
    let spec = const { F::SPEC };
    let shape = GroupShape::from(spec);
    // SAFETY: the caller's block and rows.
    unsafe {
        let codes = block.add(spec.codes_at() + g * spec.group_bytes());
        let mut acc = [_mm512_setzero_si512(); T];
        for t in 0..T {
            acc[t] = start(x, t, at, shape);
        }
        prefetch(codes, spec.group_bytes());
        for step in 0..spec.group / 4 {
            let w = step_codes(codes, spec, step);
            for t in 0..T {
                let q = broadcast4(x.codes.add(t * x.code_stride + at * spec.group + 4 * step));
                acc[t] = _mm512_dpbusd_epi32(acc[t], w, q);
            }
        }
        let scale = group_scale(block, spec, g);
        let min = if spec.min { group_min(block, spec, g) } else { _mm512_setzero_ps() };
        for t in 0..T {
            let total = add_group(_mm512_loadu_ps(sums[t].as_ptr()), acc[t], scale, min, x, t, at, shape);
            store16(&mut sums[t], total);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn int8_tile(layout: Layout, chunks: &[PanelChunk], cols: usize, x: Int8Rows, sums: &mut [Int8Sums]) {
    let shape = GroupShape::from(layout.block().expect("dense panels have no codes"));
    let mut row = 0;
    while row < sums.len() {
        // SAFETY: `x` has sums.len() rows.
        let x = unsafe { x.skip_rows(row) };
        let sums = &mut sums[row..];
        // SAFETY: each call takes rows that exist.
        row += unsafe {
            match shape.min {
                true => tile::<true>(chunks, shape, cols, x, sums),
                false => tile::<false>(chunks, shape, cols, x, sums),
            }
        };
    }
}

/// As many rows as fit the registers; returns their number.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const MIN: bool>(
    chunks: &[PanelChunk],
    shape: GroupShape,
    cols: usize,
    x: Int8Rows,
    sums: &mut [Int8Sums],
) -> usize {
    // SAFETY: the caller's promise; each call takes rows that exist.
    unsafe {
        match (sums.len(), chunks) {
            (6.., [a, b]) => tile_rows::<2, 6, MIN>([a, b], shape, cols, x, sums),
            (4.., [a, b]) => tile_rows::<2, 4, MIN>([a, b], shape, cols, x, sums),
            (2.., [a, b]) => tile_rows::<2, 2, MIN>([a, b], shape, cols, x, sums),
            (_, [a, b]) => tile_rows::<2, 1, MIN>([a, b], shape, cols, x, sums),
            (8.., _) => tile_rows::<1, 8, MIN>([&chunks[0]], shape, cols, x, sums),
            (4.., _) => tile_rows::<1, 4, MIN>([&chunks[0]], shape, cols, x, sums),
            (2.., _) => tile_rows::<1, 2, MIN>([&chunks[0]], shape, cols, x, sums),
            _ => tile_rows::<1, 1, MIN>([&chunks[0]], shape, cols, x, sums),
        }
    }
}

/// `T` rows against `P` unpacked panels; returns T. Sums of 12 tiles and as many accumulators are the registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile_rows<const P: usize, const T: usize, const MIN: bool>(
    chunks: [&PanelChunk; P],
    shape: GroupShape,
    cols: usize,
    x: Int8Rows,
    sums: &mut [Int8Sums],
) -> usize {
    // As a constant: no layout has both an offset and minima.
    let shape = GroupShape { min: MIN, offset: if MIN { 0 } else { shape.offset }, ..shape };
    let mut totals = [[_mm512_setzero_ps(); P]; T];
    for t in 0..T {
        for p in 0..P {
            totals[t][p] = load16(&sums[t][p]);
        }
    }
    for g in 0..cols / shape.group {
        // SAFETY: `x` has T rows of `cols` columns, and the chunks as many.
        unsafe {
            let mut acc = [[_mm512_setzero_si512(); P]; T];
            for t in 0..T {
                acc[t] = [start(x, t, g, shape); P];
            }
            for quad in g * shape.group / 16..(g + 1) * shape.group / 16 {
                for step in 4 * quad..4 * quad + 4 {
                    let mut w = [_mm512_setzero_si512(); P];
                    for p in 0..P {
                        w[p] = _mm512_load_si512(opaque(chunks[p].codes.as_ptr()).add(step * 64).cast());
                    }
                    let q = opaque(x.codes).add(4 * step);
                    for t in 0..T {
                        let q = broadcast4(q.add(t * x.code_stride));
                        for p in 0..P {
                            acc[t][p] = _mm512_dpbusd_epi32(acc[t][p], w[p], q);
                        }
                    }
                }
            }
            for p in 0..P {
                let scale = load16(&chunks[p].scales[g]);
                let min = if shape.min { load16(&chunks[p].mins[g]) } else { _mm512_setzero_ps() };
                for t in 0..T {
                    totals[t][p] = add_group(totals[t][p], acc[t][p], scale, min, x, t, g, shape);
                }
            }
        }
    }
    for t in 0..T {
        for p in 0..P {
            store16(&mut sums[t][p], totals[t][p]);
        }
    }
    T
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn broadcast4(q: *const i8) -> __m512i {
    // SAFETY: the caller's four columns.
    _mm512_set1_epi32(unsafe { q.cast::<i32>().read_unaligned() })
}

/// What a group's products are added to: -offset * the sum of its activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn start(x: Int8Rows, row: usize, group: usize, shape: GroupShape) -> __m512i {
    if shape.offset == 0 {
        return _mm512_setzero_si512();
    }
    // SAFETY: the caller's row and group exist.
    let neg_sum = unsafe { *x.neg_sums.add(row * x.sum_stride + group) };
    _mm512_set1_epi32(neg_sum * shape.offset)
}

/// sum + acc * scales + minimum * the sum of the activations: the same operations wherever a group ends.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[allow(clippy::too_many_arguments, reason = "inlined; a struct of registers would only rename them")]
unsafe fn add_group(
    sum: __m512,
    acc: __m512i,
    scale: __m512,
    min: __m512,
    x: Int8Rows,
    row: usize,
    group: usize,
    shape: GroupShape,
) -> __m512 {
    // SAFETY: the caller's row and group exist.
    unsafe {
        let x_scale = *x.scales.add(row * x.scale_stride + group * shape.group / 32);
        let factor = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
        let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), factor, sum);
        if !shape.min {
            return sum;
        }
        _mm512_fmadd_ps(min, _mm512_set1_ps(*x.scaled_sums.add(row * x.sum_stride + group)), sum)
    }
}
