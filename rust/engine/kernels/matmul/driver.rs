//! The loops around a tier's tiles. Panels outermost, so that weights are read once per block of rows;
//! inside, a chunk of columns is unpacked to L1 and used for all rows of the block.

use std::ops::Range;

use super::tier::{F32Rows, F32Weights, GroupShape, Lanes};
use super::{CHUNK_COLS, F32_PANELS, F32_TILE_COLS, INT8_PANELS, MatMut, MatmulTier, PanelChunk, QuantizedRows};
use crate::quant::{Layout, PANEL_ROWS, PackedMatrix};

/// Rows that share an unpacked chunk; their sums stay in L1.
const BLOCK_ROWS: usize = 48;

/// Most rows that are computed straight from the packed panel.
const PANEL_KERNEL_ROWS: usize = 4;

/// The sums of a block of rows, for `P` panels; on cache lines, so that no vector straddles two.
#[repr(align(64))]
struct Sums<const P: usize>([[Lanes; P]; BLOCK_ROWS]);

impl<const P: usize> Sums<P> {
    const ZERO: Self = Self([[[0.0; PANEL_ROWS]; P]; BLOCK_ROWS]);
}

#[repr(align(64))]
struct Decoded(F32Weights);

/// `Kernels::matmul_int8` of a tier.
///
/// # Safety
/// The machine has the tier; shapes were checked; the panels' columns of `out` are the caller's.
pub unsafe fn int8(
    tier: &MatmulTier,
    w: &PackedMatrix,
    shape: GroupShape,
    panels: Range<usize>,
    x: &QuantizedRows,
    rows: usize,
    out: MatMut<'_>,
) {
    if let (Some(kernel), true) = (tier.int8_panel, rows <= PANEL_KERNEL_ROWS) {
        let view = x.view(0, 0, shape.group);
        for panel in panels {
            let mut sums = [[0.0; PANEL_ROWS]; PANEL_KERNEL_ROWS];
            // SAFETY: `view` has `rows` rows of w.cols() columns, as the panel has.
            unsafe { kernel(w.layout(), w.panel_ptr(panel), w.cols(), view, rows, &mut sums[..rows]) };
            for (row, sums) in sums[..rows].iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { out.write_panel(row, panel, w.rows(), sums) };
            }
        }
        return;
    }
    let mut chunks = [PanelChunk::ZERO; INT8_PANELS];
    let mut sums = Sums::<INT8_PANELS>::ZERO;
    for first in panels.clone().step_by(INT8_PANELS) {
        let count = INT8_PANELS.min(panels.end - first);
        for first_row in (0..rows).step_by(BLOCK_ROWS) {
            let block = first_row..rows.min(first_row + BLOCK_ROWS);
            let sums = &mut sums.0[..block.len()];
            sums.fill([[0.0; PANEL_ROWS]; INT8_PANELS]);
            for col in (0..w.cols()).step_by(CHUNK_COLS) {
                let cols = CHUNK_COLS.min(w.cols() - col);
                for (i, chunk) in chunks[..count].iter_mut().enumerate() {
                    // SAFETY: the columns lie inside the panel.
                    unsafe { (tier.unpack)(w.layout(), block_ptr(w, first + i, col), cols, chunk) };
                }
                let view = x.view(block.start, col, shape.group);
                // SAFETY: the view has the block's rows and at least `cols` columns.
                unsafe { (tier.int8_tile)(w.layout(), &chunks[..count], cols, view, sums) };
            }
            // SAFETY: the caller's promise.
            unsafe { write(out, block, first, count, w.rows(), sums) };
        }
    }
}

/// `Kernels::matmul_f32` of a tier.
///
/// # Safety
/// As for `int8`.
pub unsafe fn float32(
    tier: &MatmulTier,
    w: &PackedMatrix,
    panels: Range<usize>,
    x: &[f32],
    rows: usize,
    out: MatMut<'_>,
) {
    let mut chunks = [PanelChunk::ZERO; F32_PANELS];
    let mut sums = Sums::<F32_PANELS>::ZERO;
    let mut weights = Decoded([[[0.0; PANEL_ROWS]; F32_TILE_COLS]; F32_PANELS]);
    for first in panels.clone().step_by(F32_PANELS) {
        let count = F32_PANELS.min(panels.end - first);
        for first_row in (0..rows).step_by(BLOCK_ROWS) {
            let block = first_row..rows.min(first_row + BLOCK_ROWS);
            let sums = &mut sums.0[..block.len()];
            sums.fill([[0.0; PANEL_ROWS]; F32_PANELS]);
            for col in (0..w.cols()).step_by(F32_TILE_COLS) {
                let cols = F32_TILE_COLS.min(w.cols() - col);
                for panel in 0..count {
                    // SAFETY: the columns lie inside the panel.
                    unsafe { decode(tier, w, first + panel, col, &mut chunks[panel], &mut weights.0[panel][..cols]) };
                }
                let rows = F32Rows { ptr: x[block.start * w.cols() + col..].as_ptr(), stride: w.cols() };
                // SAFETY: `x` has the block's rows and columns.
                unsafe { (tier.f32_tile)(&weights.0, rows, cols, count, sums) };
            }
            // SAFETY: the caller's promise.
            unsafe { write(out, block, first, count, w.rows(), sums) };
        }
    }
}

/// Decodes the columns from `col` on of a panel; `chunk` keeps what was unpacked for the columns that follow.
///
/// # Safety
/// The machine has the tier; the columns lie inside the panel.
unsafe fn decode(
    tier: &MatmulTier,
    w: &PackedMatrix,
    panel: usize,
    col: usize,
    chunk: &mut PanelChunk,
    out: &mut [Lanes],
) {
    // SAFETY: the caller's promise; a chunk starts at a whole block.
    unsafe {
        let Some(spec) = w.layout().block() else {
            return (tier.widen)(w.layout(), w.panel_ptr(panel), col, out);
        };
        if col.is_multiple_of(CHUNK_COLS) {
            (tier.unpack)(w.layout(), block_ptr(w, panel, col), CHUNK_COLS.min(w.cols() - col), chunk);
        }
        (tier.decode)(chunk, spec.into(), col % CHUNK_COLS, out);
    }
}

/// Where the block that starts at column `col` lies.
fn block_ptr(w: &PackedMatrix, panel: usize, col: usize) -> *const u8 {
    let bytes = Layout::panel_bytes(w.layout(), col);
    // SAFETY: `col` is below the panel's columns.
    unsafe { w.panel_ptr(panel).add(bytes) }
}

/// # Safety
/// The rows and the panels' columns are the caller's.
unsafe fn write<const P: usize>(
    out: MatMut<'_>,
    rows: Range<usize>,
    first_panel: usize,
    panels: usize,
    cols: usize,
    sums: &[[Lanes; P]],
) {
    for (row, sums) in rows.zip(sums) {
        for (i, sums) in sums[..panels].iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { out.write_panel(row, first_panel + i, cols, sums) };
        }
    }
}
