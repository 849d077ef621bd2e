//! Products of few rows with dense weights, straight from packed panels; sixteen rows of a column are one vector.

use super::{F32x16, prefetch};
use crate::kernels::matmul::{F32Rows, Lanes, PanelSums};
use crate::quant::{F8_BYTES, F8_COLS, F8_SCALES, Layout, PANEL_ROWS};

/// Columns that panels are prefetched ahead.
const AHEAD: usize = 64;

/// A dense layout: how its columns, sixteen numbers each, lie in a panel.
trait Dense {
    const COLUMN_BYTES: usize;

    #[inline(always)]
    fn at(panel: *const u8, col: usize) -> *const u8 {
        panel.wrapping_add(col * Self::COLUMN_BYTES)
    }

    /// Column `col`, widened.
    ///
    /// # Safety
    /// The panel has it.
    #[inline(always)]
    unsafe fn column<V: F32x16>(panel: *const u8, col: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe { Self::load(Self::at(panel, col)) }
    }

    /// # Safety
    /// `p` is valid for reading COLUMN_BYTES bytes.
    unsafe fn load<V: F32x16>(p: *const u8) -> V;
}

/// Layouts whose columns lie one after the other.
macro_rules! plain {
    ($($layout:ident, $bytes:literal: $load:expr;)+) => {$(
        struct $layout;

        impl Dense for $layout {
            const COLUMN_BYTES: usize = $bytes * PANEL_ROWS;

            #[inline(always)]
            unsafe fn load<V: F32x16>(p: *const u8) -> V {
                // SAFETY: the caller's promise.
                unsafe { $load(p.cast()) }
            }
        }
    )+};
}

plain! {
    F32, 4: V::load;
    F16, 2: V::load_f16;
    BF16, 2: V::load_bf16;
}

/// Blocks of columns that start with sixteen scales.
struct F8;

impl Dense for F8 {
    const COLUMN_BYTES: usize = PANEL_ROWS;

    #[inline(always)]
    fn at(panel: *const u8, col: usize) -> *const u8 {
        panel.wrapping_add(col / F8_COLS * F8_BYTES + F8_SCALES + col % F8_COLS * Self::COLUMN_BYTES)
    }

    #[inline(always)]
    unsafe fn column<V: F32x16>(panel: *const u8, col: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let scales = V::load(panel.add(col / F8_COLS * F8_BYTES).cast());
            scales.mul(Self::load(Self::at(panel, col)))
        }
    }

    #[inline(always)]
    unsafe fn load<V: F32x16>(p: *const u8) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load_e4m3(p) }
    }
}

/// Runs an expression with `$D` as the layout's type.
macro_rules! with_dense {
    ($layout:expr, $D:ident => $run:expr) => {
        match $layout {
            Layout::F32 => {
                type $D = F32;
                $run
            }
            Layout::F16 => {
                type $D = F16;
                $run
            }
            Layout::F8 => {
                type $D = F8;
                $run
            }
            _ => {
                type $D = BF16;
                $run
            }
        }
    };
}

/// `MatmulTier::widen`.
#[inline(always)]
pub unsafe fn widen<V: F32x16>(layout: Layout, panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    // SAFETY: the caller's promise.
    with_dense!(layout, D => unsafe { widen_as::<V, D>(panel, first_col, out) });
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
    with_dense!(layout, D => unsafe {
        match rows {
            1 => each::<V, D, 1, 4>(panels, cols, x, out),
            2 => each::<V, D, 2, 2>(panels, cols, x, out),
            3 => each::<V, D, 3, 1>(panels, cols, x, out),
            _ => each::<V, D, 4, 1>(panels, cols, x, out),
        }
    });
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
