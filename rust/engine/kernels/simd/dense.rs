//! Products of few rows with dense weights, straight from packed panels; sixteen rows of a column are one vector.

use super::{F32x16, prefetch};
use crate::kernels::matmul::{F32Rows, Lanes, PanelSums};
use crate::quant::{F8_BYTES, F8_COLS, F8_SCALES, Layout, PANEL_ROWS};

/// Columns that panels are prefetched ahead.
const AHEAD: usize = 64;

/// A dense layout.
trait Dense {
    /// A packed column's address in a panel.
    fn at(panel: *const u8, col: usize) -> *const u8;

    /// Column `col`, widened.
    ///
    /// # Safety
    /// The panel has it.
    unsafe fn column<V: F32x16>(panel: *const u8, col: usize) -> V;
}

struct F32;
struct F16;
struct BF16;
struct F8;

impl Dense for F32 {
    #[inline(always)]
    fn at(panel: *const u8, col: usize) -> *const u8 {
        panel.wrapping_add(col * PANEL_ROWS * 4)
    }

    #[inline(always)]
    unsafe fn column<V: F32x16>(panel: *const u8, col: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(Self::at(panel, col).cast()) }
    }
}

impl Dense for F16 {
    #[inline(always)]
    fn at(panel: *const u8, col: usize) -> *const u8 {
        panel.wrapping_add(col * PANEL_ROWS * 2)
    }

    #[inline(always)]
    unsafe fn column<V: F32x16>(panel: *const u8, col: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_f16(Self::at(panel, col)) }
    }
}

impl Dense for BF16 {
    #[inline(always)]
    fn at(panel: *const u8, col: usize) -> *const u8 {
        panel.wrapping_add(col * PANEL_ROWS * 2)
    }

    #[inline(always)]
    unsafe fn column<V: F32x16>(panel: *const u8, col: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_bf16(Self::at(panel, col)) }
    }
}

impl Dense for F8 {
    #[inline(always)]
    fn at(panel: *const u8, col: usize) -> *const u8 {
        panel.wrapping_add(col / F8_COLS * F8_BYTES + F8_SCALES + col % F8_COLS * PANEL_ROWS)
    }

    #[inline(always)]
    unsafe fn column<V: F32x16>(panel: *const u8, col: usize) -> V {
        // SAFETY: the caller's promise; a block starts with its scales.
        unsafe {
            let scales = V::load(panel.add(col / F8_COLS * F8_BYTES).cast());
            scales.mul(V::load_e4m3(Self::at(panel, col)))
        }
    }
}

/// `MatmulTier::widen`.
#[inline(always)]
pub unsafe fn widen<V: F32x16>(layout: Layout, panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    // SAFETY: the caller's promise.
    unsafe {
        match layout {
            Layout::F32 => widen_as::<V, F32>(panel, first_col, out),
            Layout::F16 => widen_as::<V, F16>(panel, first_col, out),
            Layout::F8 => widen_as::<V, F8>(panel, first_col, out),
            _ => widen_as::<V, BF16>(panel, first_col, out),
        }
    }
}

#[inline(always)]
unsafe fn widen_as<V: F32x16, D: Dense>(panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    for (k, out) in out.iter_mut().enumerate() {
        // SAFETY: the caller's columns lie inside the panel.
        unsafe { D::column::<V>(panel, first_col + k).store(out.as_mut_ptr()) };
    }
}

/// `MatmulTier::dense_panels`.
#[inline(always)]
pub unsafe fn panels<V: F32x16>(
    layout: Layout,
    panels: &[*const u8],
    cols: usize,
    x: F32Rows,
    rows: usize,
    out: &mut [PanelSums],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match layout {
            Layout::F32 => panels_as::<V, F32>(panels, cols, x, rows, out),
            Layout::F16 => panels_as::<V, F16>(panels, cols, x, rows, out),
            Layout::F8 => panels_as::<V, F8>(panels, cols, x, rows, out),
            _ => panels_as::<V, BF16>(panels, cols, x, rows, out),
        }
    }
}

#[inline(always)]
unsafe fn panels_as<V: F32x16, D: Dense>(
    panels: &[*const u8],
    cols: usize,
    x: F32Rows,
    rows: usize,
    out: &mut [PanelSums],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            1 => each::<V, D, 1, 4>(panels, cols, x, out),
            2 => each::<V, D, 2, 2>(panels, cols, x, out),
            3 => each::<V, D, 3, 1>(panels, cols, x, out),
            _ => each::<V, D, 4, 1>(panels, cols, x, out),
        }
    }
}

/// `P` panels at a time while there are as many: a sum alone would wait for its own additions.
#[inline(always)]
unsafe fn each<V: F32x16, D: Dense, const T: usize, const P: usize>(
    panels: &[*const u8],
    cols: usize,
    x: F32Rows,
    out: &mut [PanelSums],
) {
    let (together, rest) = panels.as_chunks::<P>();
    let (sums, rest_sums) = out.split_at_mut(together.len() * P);
    // SAFETY: the caller's promise.
    unsafe {
        for (panels, sums) in together.iter().zip(sums.chunks_exact_mut(P)) {
            multiply::<V, D, T, P>(panels, cols, x, sums);
        }
        for (panel, sums) in rest.iter().zip(rest_sums.chunks_exact_mut(1)) {
            multiply::<V, D, T, 1>(&[*panel], cols, x, sums);
        }
    }
}

/// `T` rows against `P` panels.
#[inline(always)]
unsafe fn multiply<V: F32x16, D: Dense, const T: usize, const P: usize>(
    panels: &[*const u8; P],
    cols: usize,
    x: F32Rows,
    out: &mut [PanelSums],
) {
    let mut sums = [[V::splat(0.0); P]; T];
    for col in 0..cols {
        for p in 0..P {
            prefetch(D::at(panels[p], col + AHEAD), 1);
            // SAFETY: the panel has the column, `x` T rows of `cols` columns.
            unsafe {
                let weights = D::column::<V>(panels[p], col);
                for t in 0..T {
                    sums[t][p] = weights.mul_add(V::splat(*x.ptr.add(t * x.stride + col)), sums[t][p]);
                }
            }
        }
    }
    for t in 0..T {
        for p in 0..P {
            // SAFETY: sixteen floats.
            unsafe { sums[t][p].store(out[p][t].as_mut_ptr()) };
        }
    }
}
