//! The loops around a tier's kernels. Outermost, as many rows as stay in L2; then panels, so that weights are read once for
//! them. Where a tier unpacks codes, a chunk of columns is unpacked to L1 inside, and used for a block of rows.

use std::iter;
use std::ops::Range;

use super::bf16::Bf16Rows;
use super::outliers::{OutlierColumns, OutlierRows};
use super::tier::{self, F32Rows, F32Weights, GroupShape, Int8Panels, Lanes, PANEL_KERNEL_ROWS, Unpack, UnpackedInt8};
use super::{
    BF16_PANELS, Bf16Kernels, CHUNK_COLS, F32_PANELS, F32_TILE_COLS, GROUP, INT8_PANELS, Int8Kernels, MatMut,
    MatmulTier, NextChunks, PackedPanels, PairChunk, PanelChunk, PanelSums, QuantizedRows,
};
use crate::quant::{Layout, PANEL_ROWS, PackedMatrix};

/// Rows that share an unpacked chunk; their sums stay in L1.
pub const BLOCK_ROWS: usize = 48;

/// Bytes of int8 activations that stay in a core's L2 while the panels pass by.
const CACHED_BYTES: usize = 256 << 10;

/// Of weights: what is done with them after their product finds them in L2.
const OUTLIERS_BYTES: usize = 512 << 10;

/// Parts of the weights that a lane reads side by side for few rows: memory gives more to several streams than to one.
const STREAMS: usize = 4;

/// Least length of a stream: each begins before anything was fetched ahead for it.
const STREAM_BYTES: usize = 256 << 10;

/// The sums of a block of rows, for `P` panels; on cache lines, so that no vector straddles two.
#[repr(align(64))]
struct Sums<const P: usize>([[Lanes; P]; BLOCK_ROWS]);

impl<const P: usize> Sums<P> {
    const ZERO: Self = Self([[[0.0; PANEL_ROWS]; P]; BLOCK_ROWS]);
}

#[repr(align(64))]
struct Decoded(F32Weights);

/// `range` in parts of at most `len`.
pub fn blocks(range: Range<usize>, len: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(len).map(move |first| first..range.end.min(first + len))
}

/// Rows of int8 activations that stay in L2: whole blocks.
pub fn cached_rows(cols: usize) -> usize {
    (CACHED_BYTES / cols / BLOCK_ROWS).max(1) * BLOCK_ROWS
}

/// `Kernels::matmul_int8` of a tier, with outliers if there are any.
///
/// # Safety
/// The machine has the tier; shapes were checked; the panels' columns of `out` are the caller's.
pub unsafe fn int8(
    tier: &MatmulTier,
    w: &PackedMatrix,
    panels: Range<usize>,
    x: &QuantizedRows,
    rows: Range<usize>,
    out: MatMut<'_>,
    outliers: Option<&OutlierRows>,
) {
    let mut outliers = outliers.map(|outliers| OutlierColumns::new(outliers, w));
    // SAFETY: the caller's promise.
    unsafe {
        match (&tier.int8, &mut outliers) {
            (Int8Kernels::Packed(kernel), outliers) => {
                let multiply = |runs: &[PackedPanels], rows: Range<usize>, stride| {
                    let outliers = outliers.as_mut().map(|outliers| outliers.of_rows(rows.clone()));
                    kernel(w.layout(), runs, x.view(rows.start, 0, group_of(w)), rows.len(), stride, outliers);
                };
                packed([w], panels, rows, [out], multiply);
            }
            (Int8Kernels::Unpacked(kernels), None) => unpacked(tier, kernels, w, panels, x, rows, out),
            (Int8Kernels::Unpacked(kernels), Some(outliers)) => {
                for panels in blocks(panels, (OUTLIERS_BYTES / w.panel_bytes()).max(1)) {
                    unpacked(tier, kernels, w, panels.clone(), x, rows.clone(), out);
                    outliers.add(tier, w, panels, rows.clone(), out);
                }
            }
        }
    }
}

/// By a tier that unpacks codes.
///
/// # Safety
/// As for `int8`.
unsafe fn unpacked(
    tier: &MatmulTier,
    &UnpackedInt8 { tile: kernel, few_rows, by_row }: &UnpackedInt8,
    w: &PackedMatrix,
    panels: Range<usize>,
    x: &QuantizedRows,
    rows: Range<usize>,
    out: MatMut<'_>,
) {
    let is_by_row = w.layout() == Layout::I8Row;
    let few_rows = if is_by_row { Some(by_row) } else { few_rows };
    if let (Some(kernel), true) = (few_rows, rows.len() <= PANEL_KERNEL_ROWS) {
        // SAFETY: the caller's promise.
        return unsafe { few_int8_rows(kernel, w, panels, x, rows, out) };
    }
    if is_by_row {
        for rows in blocks(rows, cached_rows(w.cols())) {
            for panel in panels.clone() {
                for rows in blocks(rows.clone(), PANEL_KERNEL_ROWS) {
                    // SAFETY: the caller's promise.
                    unsafe { few_int8_rows(by_row, w, panel..panel + 1, x, rows, out) };
                }
            }
        }
        return;
    }
    let mut tile = Int8Tile { unpack: tier.unpack, kernel, chunks: [PanelChunk::ZERO; INT8_PANELS], sums: Sums::ZERO };
    for rows in blocks(rows, cached_rows(w.cols())) {
        for panels in blocks(panels.clone(), INT8_PANELS) {
            for rows in blocks(rows.clone(), BLOCK_ROWS) {
                // SAFETY: the caller's promise.
                unsafe { tile.multiply(w, panels.clone(), x, rows, out) };
            }
        }
    }
}

/// Up to PANEL_KERNEL_ROWS rows.
///
/// # Safety
/// As for `int8`.
unsafe fn few_int8_rows(
    kernel: Int8Panels,
    w: &PackedMatrix,
    panels: Range<usize>,
    x: &QuantizedRows,
    rows: Range<usize>,
    out: MatMut<'_>,
) {
    let view = x.view(rows.start, 0, group_of(w));
    let bytes = panels.len() * w.layout().panel_bytes(w.cols());
    let streams = (bytes / STREAM_BYTES).clamp(1, STREAMS);
    let num_rows = rows.len();
    // SAFETY: `view` has these rows of w.cols() columns, as the panels have.
    let multiply = |panels: &[_], sums: &mut [_]| unsafe {
        kernel(w.layout(), panels, w.cols(), view, num_rows, sums);
    };
    // SAFETY: the caller's promise.
    unsafe { few_rows(w, panels, streams, rows, out, multiply) };
}

/// `int8` of two matrices of one shape with the same input.
///
/// # Safety
/// As for `int8`.
pub unsafe fn int8_pair(
    tier: &MatmulTier,
    w: [&PackedMatrix; 2],
    panels: Range<usize>,
    x: &QuantizedRows,
    rows: Range<usize>,
    out: [MatMut<'_>; 2],
) {
    match tier.int8 {
        Int8Kernels::Packed(kernel) if w[0].layout() == w[1].layout() && out[0].stride == out[1].stride => {
            let multiply = |runs: &[PackedPanels], rows: Range<usize>, stride| {
                let view = x.view(rows.start, 0, group_of(w[0]));
                // SAFETY: the panels' columns of these rows are the caller's.
                unsafe { kernel(w[0].layout(), runs, view, rows.len(), stride, None) };
            };
            // SAFETY: the caller's promise.
            unsafe { packed(w, panels, rows, out, multiply) }
        }
        _ => {
            for (w, out) in w.into_iter().zip(out) {
                // SAFETY: the caller's promise.
                unsafe { int8(tier, w, panels.clone(), x, rows.clone(), out, None) }
            }
        }
    }
}

/// Straight from packed panels, of matrices of one shape and layout: `multiply` gets whole panels, rows of the input, as many as stay in
/// L2, and how far rows of the outputs lie from each other. The last panel of a matrix may have more rows than `out` has columns.
///
/// # Safety
/// As for `int8`.
unsafe fn packed<const N: usize>(
    w: [&PackedMatrix; N],
    panels: Range<usize>,
    rows: Range<usize>,
    out: [MatMut<'_>; N],
    mut multiply: impl FnMut(&[PackedPanels], Range<usize>, usize),
) {
    let cols = w[0].cols();
    let whole = panels.start..panels.end.min(w[0].rows() / PANEL_ROWS).max(panels.start);
    let run = |w: &PackedMatrix, panels: &Range<usize>, out| PackedPanels {
        first: w.panel_ptr(panels.start),
        count: panels.len(),
        panel_bytes: w.panel_bytes(),
        cols,
        out,
    };
    if !whole.is_empty() {
        for rows in blocks(rows.clone(), cached_rows(cols)) {
            let runs: [_; N] = std::array::from_fn(|i| {
                let to = out[i].ptr.wrapping_add(rows.start * out[i].stride + whole.start * PANEL_ROWS);
                run(w[i], &whole, to)
            });
            multiply(&runs, rows, out[0].stride);
        }
    }
    let rest = whole.end..panels.end;
    if !rest.is_empty() {
        let mut sums = [[[0.0; PANEL_ROWS]; 1]; BLOCK_ROWS];
        for (w, out) in w.into_iter().zip(out) {
            for rows in blocks(rows.clone(), BLOCK_ROWS) {
                multiply(&[run(w, &rest, sums.as_mut_ptr().cast())], rows.clone(), PANEL_ROWS);
                // SAFETY: the caller's promise.
                unsafe { write(out, rows, rest.clone(), w.rows(), &sums) };
            }
        }
    }
}

/// Straight from the packed panels: these in as many equal parts as there are streams, one of each at a time.
///
/// # Safety
/// The rows and the panels' columns of `out` are the caller's.
unsafe fn few_rows(
    w: &PackedMatrix,
    panels: Range<usize>,
    streams: usize,
    rows: Range<usize>,
    out: MatMut<'_>,
    multiply: impl Fn(&[*const u8], &mut [PanelSums]),
) {
    let apart = panels.len() / streams;
    let rest = panels.start + apart * streams..panels.end;
    let together = (panels.start..panels.start + apart).map(|first| (first..rest.start).step_by(apart));
    for panels in together.chain(iter::once(rest.clone().step_by(1))) {
        let mut sums = [[[0.0; PANEL_ROWS]; PANEL_KERNEL_ROWS]; STREAMS];
        let mut starts = [std::ptr::null(); STREAMS];
        for (start, panel) in starts.iter_mut().zip(panels.clone()) {
            *start = w.panel_ptr(panel);
        }
        multiply(&starts[..panels.len()], &mut sums[..panels.len()]);
        for (panel, sums) in panels.zip(&sums) {
            for (row, sums) in rows.clone().zip(sums) {
                // SAFETY: the caller's promise.
                unsafe { out.write_panel(row, panel, w.rows(), sums) };
            }
        }
    }
}

/// A tier's functions for a tile of int8 products, and what they work with, in L1.
struct Int8Tile {
    unpack: Unpack,
    kernel: tier::Int8Tile,
    chunks: [PanelChunk; INT8_PANELS],
    sums: Sums<INT8_PANELS>,
}

impl Int8Tile {
    /// One block of rows against the panels of a tile.
    ///
    /// # Safety
    /// As for `int8`.
    unsafe fn multiply(
        &mut self,
        w: &PackedMatrix,
        panels: Range<usize>,
        x: &QuantizedRows,
        rows: Range<usize>,
        out: MatMut<'_>,
    ) {
        let group = group_of(w);
        let sums = &mut self.sums.0[..rows.len()];
        sums.fill([[0.0; PANEL_ROWS]; INT8_PANELS]);
        for cols in blocks(0..w.cols(), CHUNK_COLS) {
            for (panel, chunk) in panels.clone().zip(&mut self.chunks) {
                // SAFETY: the columns lie inside the panel.
                unsafe { (self.unpack)(w.layout(), block_ptr(w, panel, cols.start), cols.len(), chunk) };
            }
            let view = x.view(rows.start, cols.start, group);
            // SAFETY: the view has the block's rows and at least these columns.
            unsafe { (self.kernel)(w.layout(), &self.chunks[..panels.len()], cols.len(), view, sums) };
        }
        // SAFETY: the caller's promise.
        unsafe { write(out, rows, panels, w.rows(), sums) };
    }
}

/// Columns of a quantized matrix that share a scale; of activations, where its rows have one each.
fn group_of(w: &PackedMatrix) -> usize {
    match w.layout() {
        Layout::I8Row => QuantizedRows::GROUP,
        layout => layout.block().expect("int8 products take quantized layouts only").group,
    }
}

/// `Kernels::matmul_bf16` of a tier.
///
/// # Safety
/// As for `int8`.
pub unsafe fn bf16(
    kernels: &Bf16Kernels,
    w: &PackedMatrix,
    panels: Range<usize>,
    x: &Bf16Rows,
    rows: Range<usize>,
    out: MatMut<'_>,
) {
    let (layout, few) = (w.layout(), rows.len() <= PANEL_KERNEL_ROWS);
    let group = layout.block().map_or(GROUP, |spec| spec.group);
    if rows.len() <= (kernels.most_few_rows)(layout) {
        let multiply = |runs: &[PackedPanels], rows: Range<usize>, stride| {
            // SAFETY: the panels' columns of these rows are the caller's.
            unsafe { (kernels.few)(layout, runs[0], x.view(rows.start, 0, group), rows.len(), stride) };
        };
        // SAFETY: the caller's promise.
        return unsafe { packed([w], panels, rows, [out], multiply) };
    }
    let together = if few { BF16_PANELS } else { BF16_PANELS / 2 };
    let mut chunks = [PairChunk::ZERO; BF16_PANELS];
    let mut sums = Sums::<BF16_PANELS>::ZERO;
    for rows in blocks(rows, cached_rows(w.cols())) {
        for panels in blocks(panels.clone(), together) {
            for rows in blocks(rows.clone(), BLOCK_ROWS) {
                let sums = &mut sums.0[..rows.len()];
                sums.fill([[0.0; PANEL_ROWS]; BF16_PANELS]);
                for cols in blocks(0..w.cols(), CHUNK_COLS) {
                    let next_cols = if cols.end < w.cols() { cols.end } else { 0 };
                    let bytes = layout.panel_bytes(CHUNK_COLS.min(w.cols() - next_cols));
                    let mut next = NextChunks { panels: [std::ptr::null(); BF16_PANELS], bytes };
                    for (i, panel) in panels.clone().enumerate() {
                        let at = block_ptr(w, panel, cols.start);
                        // SAFETY: the columns lie inside the panel.
                        unsafe { (kernels.fill)(layout, at, cols.len(), &mut chunks[i]) };
                        let skip = if next_cols == 0 { together * w.panel_bytes() } else { 0 };
                        next.panels[i] = block_ptr(w, panel, next_cols).wrapping_add(skip);
                    }
                    let view = x.view(rows.start, cols.start, group);
                    // SAFETY: the view has the block's rows and these columns.
                    unsafe { (kernels.tile)(layout, &chunks[..panels.len()], cols.len(), view, next, sums) };
                }
                if layout == Layout::I8Row {
                    for (i, panel) in panels.clone().enumerate() {
                        // SAFETY: the panel starts with its scales, aligned.
                        let scales = unsafe { &*w.panel_ptr(panel).cast::<Lanes>() };
                        sums.iter_mut()
                            .for_each(|sums| sums[i].iter_mut().zip(scales).for_each(|(sum, scale)| *sum *= scale));
                    }
                }
                // SAFETY: the caller's promise.
                unsafe { write(out, rows, panels.clone(), w.rows(), sums) };
            }
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
    rows: Range<usize>,
    out: MatMut<'_>,
) {
    if let (Some(kernel), false, true) = (tier.dense_panels, w.layout().is_quantized(), rows.len() <= PANEL_KERNEL_ROWS)
    {
        let view = F32Rows { ptr: x[rows.start * w.cols()..].as_ptr(), stride: w.cols() };
        let num_rows = rows.len();
        // SAFETY: `view` has these rows of w.cols() columns, as the panels have.
        let multiply = |panels: &[_], sums: &mut [_]| unsafe {
            kernel(w.layout(), panels, w.cols(), view, num_rows, sums);
        };
        // SAFETY: the caller's promise.
        return unsafe { few_rows(w, panels, STREAMS, rows, out, multiply) };
    }
    let mut chunks = [PanelChunk::ZERO; F32_PANELS];
    let mut sums = Sums::<F32_PANELS>::ZERO;
    let mut weights = Decoded([[[0.0; PANEL_ROWS]; F32_TILE_COLS]; F32_PANELS]);
    for panels in blocks(panels, F32_PANELS) {
        for rows in blocks(rows.clone(), BLOCK_ROWS) {
            let sums = &mut sums.0[..rows.len()];
            sums.fill([[0.0; PANEL_ROWS]; F32_PANELS]);
            for cols in blocks(0..w.cols(), F32_TILE_COLS) {
                for (i, panel) in panels.clone().enumerate() {
                    let decoded = &mut weights.0[i][..cols.len()];
                    // SAFETY: the columns lie inside the panel.
                    unsafe { decode(tier, w, panel, cols.start, &mut chunks[i], decoded) };
                }
                let x = F32Rows { ptr: x[rows.start * w.cols() + cols.start..].as_ptr(), stride: w.cols() };
                // SAFETY: `x` has the block's rows and columns.
                unsafe { (tier.f32_tile)(&weights.0, x, cols.len(), panels.len(), sums) };
            }
            // SAFETY: the caller's promise.
            unsafe { write(out, rows, panels.clone(), w.rows(), sums) };
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
        if !w.layout().is_quantized() {
            return (tier.widen)(w.layout(), w.panel_ptr(panel), col, out);
        }
        if col.is_multiple_of(CHUNK_COLS) {
            let cols = CHUNK_COLS.min(w.cols() - col);
            match w.layout() {
                Layout::I8Row => chunk.read_by_row(w.panel_ptr(panel), col, cols),
                layout => (tier.unpack)(layout, block_ptr(w, panel, col), cols, chunk),
            }
        }
        let shape = w.layout().block().map_or(GroupShape::BY_ROW, GroupShape::from);
        (tier.decode)(chunk, shape, col % CHUNK_COLS, out);
    }
}

/// Where column `col` lies, the first of a block if there are any.
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
    panels: Range<usize>,
    cols: usize,
    sums: &[[Lanes; P]],
) {
    for (row, sums) in rows.zip(sums) {
        for (panel, sums) in panels.clone().zip(sums) {
            // SAFETY: the caller's promise.
            unsafe { out.write_panel(row, panel, cols, sums) };
        }
    }
}
