//! Products of int8 activations and weights whose rows have one scale each. Sums over 64 columns, which share a scale of the
//! activations, are whole numbers: a conversion and a fused multiply-add come to sixteen vpdpbusd.

use std::arch::x86_64::*;

use super::int8::{Fetch, Pair, Pairs, SINGLE_ROWS, broadcast4, part, single_ahead};
use crate::kernels::matmul::{GROUP, Int8Rows, PackedPanels, WIDE_GROUP};
use crate::kernels::simd::opaque;
use crate::quant::{PANEL_ROWS, ROW_SCALES};

/// Most rows of a tile of two panels.
const TILE_ROWS: usize = 6;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn multiply(matrices: &[PackedPanels], x: Int8Rows, rows: usize, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if rows <= SINGLE_ROWS {
            for panels in matrices {
                single_panels(*panels, x, rows, stride);
            }
            return;
        }
        let (pairs, rest) = Pairs::of(matrices);
        panel_pairs(pairs, x, rows, stride);
        single_panels(rest, x, rows, stride);
    }
}

/// Calls a tile of as many rows as there are.
macro_rules! tile_of {
    ($rows:expr, $P:literal, $LEAN:literal: $($T:literal)+ => $args:tt) => {
        match $rows {
            $($T => tile::<$P, $T, $LEAN> $args,)+
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn single_panels(panels: PackedPanels, x: Int8Rows, rows: usize, stride: usize) {
    let PackedPanels { count, panel_bytes, cols, .. } = panels;
    let num_tiles = rows.div_ceil(SINGLE_ROWS);
    let ahead = single_ahead(num_tiles, panel_bytes);
    for panel in 0..count {
        let PackedPanels { first, out, .. } = panels.skip(panel);
        for i in 0..num_tiles {
            let here = part(i, num_tiles, rows);
            let share = part(i, num_tiles, panel_bytes);
            let fetch = Fetch::new([first], ahead, share, cols / GROUP).read_once(num_tiles == 1);
            // SAFETY: the rows of the tile exist, and so does the panel.
            unsafe {
                let (x, out) = (x.skip_rows(here.start), [out.add(here.start * stride)]);
                tile_of!(here.len(), 1, false: 1 2 3 4 5 6 7 8 => ([first], cols, x, fetch, out, stride));
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn panel_pairs(pairs: Pairs, x: Int8Rows, rows: usize, stride: usize) {
    let Pairs { count, step, panel_bytes, cols, .. } = pairs;
    let num_tiles = rows.div_ceil(TILE_ROWS);
    for i in 0..count {
        let Pair { panels, out } = pairs.at(i);
        for i in 0..num_tiles {
            let here = part(i, num_tiles, rows);
            // Without the scales, so that whole lines are left for every group.
            let share = part(i, num_tiles, cols * PANEL_ROWS);
            let fetch = Fetch::new(panels, step * panel_bytes, share, cols / GROUP);
            // SAFETY: the rows of the tile exist, and so do the panels.
            unsafe {
                let (x, out) = (x.skip_rows(here.start), out.map(|out| out.wrapping_add(here.start * stride)));
                match fetch.is_lean() {
                    true => tile_of!(here.len(), 2, true: 3 4 5 6 => (panels, cols, x, fetch, out, stride)),
                    false => tile_of!(here.len(), 2, false: 3 4 5 6 => (panels, cols, x, fetch, out, stride)),
                }
            }
        }
    }
}

/// `T` rows against `P` panels, whose fetches are lean or not: sums of a wide group are whole numbers, which start from what
/// codes have more than they stand for.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<const P: usize, const T: usize, const LEAN: bool>(
    panels: [*const u8; P],
    cols: usize,
    x: Int8Rows,
    mut fetch: Fetch<P>,
    out: [*mut f32; P],
    stride: usize,
) {
    let mut totals = [[_mm512_setzero_ps(); P]; T];
    for wide in 0..cols / WIDE_GROUP {
        // SAFETY: the panels and the T rows have these columns.
        unsafe { add_group::<P, T, LEAN, WIDE_GROUP>(panels, wide, x, &mut fetch, &mut totals) };
    }
    if !cols.is_multiple_of(WIDE_GROUP) {
        // SAFETY: as above.
        unsafe { add_group::<P, T, LEAN, GROUP>(panels, cols / WIDE_GROUP, x, &mut fetch, &mut totals) };
    }
    for p in 0..P {
        // SAFETY: a panel starts with its scales; the caller's T rows of P panels.
        unsafe {
            let scales = _mm512_load_ps(panels[p].cast());
            for t in 0..T {
                _mm512_storeu_ps(out[p].add(t * stride), _mm512_mul_ps(totals[t][p], scales));
            }
        }
    }
}

/// Adds the products of wide group `wide`, of which there are `COLS` columns, times the activations' scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_group<const P: usize, const T: usize, const LEAN: bool, const COLS: usize>(
    panels: [*const u8; P],
    wide: usize,
    x: Int8Rows,
    fetch: &mut Fetch<P>,
    totals: &mut [[__m512; P]; T],
) {
    let mut sums = [[_mm512_setzero_si512(); P]; T];
    for t in 0..T {
        // SAFETY: `x` has T rows with this group.
        sums[t] = [_mm512_set1_epi32(unsafe { *x.wide_starts.add(t * x.wide_stride + wide) }); P];
    }
    for step in 0..COLS / 4 {
        if step % 8 == 0 {
            if LEAN { fetch.line() } else { fetch.lines() }
        }
        let at = wide * WIDE_GROUP + 4 * step;
        let mut w = [_mm512_setzero_si512(); P];
        for p in 0..P {
            // SAFETY: the panel has these columns.
            w[p] = unsafe { _mm512_load_si512(panels[p].add(ROW_SCALES + at * PANEL_ROWS).cast()) };
        }
        let q = opaque(x.codes).wrapping_add(at);
        for t in 0..T {
            // SAFETY: `x` has T rows of these columns.
            let q = unsafe { broadcast4(q.add(t * x.code_stride)) };
            for p in 0..P {
                sums[t][p] = _mm512_dpbusd_epi32(sums[t][p], w[p], q);
            }
        }
    }
    for t in 0..T {
        // SAFETY: as above.
        let x_scale = _mm512_set1_ps(unsafe { *x.scales.add(t * x.scale_stride + wide * WIDE_GROUP / GROUP) });
        for p in 0..P {
            totals[t][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t][p]), x_scale, totals[t][p]);
        }
    }
}
