//! What a tier supplies: how a piece of a panel is unpacked, and the products of small tiles.

use super::Int8Rows;
use super::bf16::{Bf16RowMut, Bf16View};
use super::outliers::{ColumnPlace, OutlierRow, PanelOutliers};
use super::quantize::RowMut;
use crate::quant::{BlockSpec, Layout, PANEL_ROWS, ROW_OFFSET, ROW_SCALES};

/// Columns that are unpacked at a time: whole blocks of every layout, and a part of L1.
pub const CHUNK_COLS: usize = 256;

/// Panels of one int8 tile.
pub const INT8_PANELS: usize = 2;

/// Panels of one float32 tile.
pub const F32_PANELS: usize = 4;

/// Columns of one float32 tile.
pub const F32_TILE_COLS: usize = 64;

/// One number for each row of a panel.
pub type Lanes = [f32; PANEL_ROWS];

/// A row's sums in an int8 tile.
pub type Int8Sums = [Lanes; INT8_PANELS];

/// Most panels of one bf16 tile.
pub const BF16_PANELS: usize = 4;

/// A row's sums in a bf16 tile.
pub type Bf16Sums = [Lanes; BF16_PANELS];

/// A row's sums in a float32 tile.
pub type F32Sums = [Lanes; F32_PANELS];

/// What kernels need to know of a layout once its codes are unpacked.
#[derive(Debug, Clone, Copy)]
pub struct GroupShape {
    /// Columns that share a scale: 16 or 32.
    pub group: usize,
    /// Subtracted from codes: 0 or a power of two.
    pub offset: i32,
    pub min: bool,
}

impl GroupShape {
    /// That of `Layout::I8Row`, where all groups of a row have the same scale.
    pub const BY_ROW: Self = Self { group: 32, offset: ROW_OFFSET as i32, min: false };
}

impl From<BlockSpec> for GroupShape {
    fn from(spec: BlockSpec) -> Self {
        Self { group: spec.group, offset: spec.offset, min: spec.min }
    }
}

/// Up to `CHUNK_COLS` columns of one panel, unpacked: weight = scale * (code - offset) + min.
#[repr(C, align(64))]
pub struct PanelChunk {
    /// (cols / 4, 16, 4).
    pub codes: [u8; CHUNK_COLS * PANEL_ROWS],
    /// (groups, 16).
    pub scales: [Lanes; CHUNK_COLS / 16],
    /// (groups, 16); only if the layout has minima.
    pub mins: [Lanes; CHUNK_COLS / 16],
}

impl PanelChunk {
    pub const ZERO: Self = Self {
        codes: [0; CHUNK_COLS * PANEL_ROWS],
        scales: [[0.0; PANEL_ROWS]; CHUNK_COLS / 16],
        mins: [[0.0; PANEL_ROWS]; CHUNK_COLS / 16],
    };

    /// Columns of a panel of `Layout::I8Row`.
    ///
    /// # Safety
    /// They are whole groups of 32, and the panel has them.
    pub unsafe fn read_by_row(&mut self, panel: *const u8, first_col: usize, cols: usize) {
        // SAFETY: the panel starts with its scales, aligned; the caller's columns.
        unsafe {
            let codes = panel.add(ROW_SCALES + first_col * PANEL_ROWS);
            self.codes[..cols * PANEL_ROWS].copy_from_slice(std::slice::from_raw_parts(codes, cols * PANEL_ROWS));
            self.scales[..cols / GroupShape::BY_ROW.group].fill(*panel.cast());
        }
    }
}

/// Up to `CHUNK_COLS` columns of one panel as pairs of bf16: weight = scale * number + min.
#[repr(C, align(64))]
pub struct PairChunk {
    /// (cols / 4, 2, 16, 2): of every four columns, the first with the third and the second with the fourth. Zeros follow up to
    /// a whole four.
    pub pairs: [u16; CHUNK_COLS * PANEL_ROWS],
    /// (groups, 16); only if the layout has blocks.
    pub scales: [Lanes; CHUNK_COLS / 16],
    /// (groups, 16); only if the layout has minima.
    pub mins: [Lanes; CHUNK_COLS / 16],
}

impl PairChunk {
    pub const ZERO: Self = Self {
        pairs: [0; CHUNK_COLS * PANEL_ROWS],
        scales: [[0.0; PANEL_ROWS]; CHUNK_COLS / 16],
        mins: [[0.0; PANEL_ROWS]; CHUNK_COLS / 16],
    };
}

/// How a tier multiplies with bf16 activations.
pub struct Bf16Kernels {
    /// Rounds a row's activations, from some group on.
    pub round: unsafe fn(&[f32], Bf16RowMut),
    /// Brings `cols` columns of a panel, whole blocks if it has any, into pairs, from the address of the first on.
    pub fill: unsafe fn(Layout, *const u8, cols: usize, out: &mut PairChunk),
    /// Adds `cols` columns' products to `sums` (rows, BF16_PANELS, 16); up to BF16_PANELS chunks.
    pub tile: unsafe fn(Layout, &[PairChunk], cols: usize, Bf16View, NextChunks, sums: &mut [Bf16Sums]),
    /// Computes the products of that few rows straight from packed panels.
    pub few: unsafe fn(Layout, PackedPanels, Bf16View, rows: usize, stride: usize),
    pub most_few_rows: fn(Layout) -> usize,
}

/// What is asked of memory while a tile computes: that many bytes of each panel.
#[derive(Clone, Copy)]
pub struct NextChunks {
    pub panels: [*const u8; BF16_PANELS],
    pub bytes: usize,
}

/// Most rows that are computed straight from packed panels.
pub const PANEL_KERNEL_ROWS: usize = 4;

/// The sums of such rows.
pub type PanelSums = [Lanes; PANEL_KERNEL_ROWS];

/// Computes the int8 products of up to four rows straight from packed panels of `cols` columns: one of `out` for each.
pub type Int8Panels = unsafe fn(Layout, &[*const u8], cols: usize, Int8Rows, rows: usize, out: &mut [PanelSums]);

/// The same for dense panels and float32 activations.
pub type DensePanels = unsafe fn(Layout, &[*const u8], cols: usize, F32Rows, rows: usize, out: &mut [PanelSums]);

/// Whole panels that lie side by side, and their outputs: (rows, stride), sixteen columns for each panel.
#[derive(Clone, Copy)]
pub struct PackedPanels {
    pub first: *const u8,
    pub count: usize,
    pub panel_bytes: usize,
    pub cols: usize,
    pub out: *mut f32,
}

/// Computes the int8 products of `rows` rows, as many as stay in L2, with packed panels of a matrix, or of two of one shape
/// and layout, whose panels then go together. With these rows' outliers, of one matrix.
pub type PackedInt8 =
    unsafe fn(Layout, &[PackedPanels], Int8Rows, rows: usize, stride: usize, Option<PanelOutliers<'_>>);

/// Adds `cols` columns' products to `sums` (rows, INT8_PANELS, 16); one or two chunks.
pub type Int8Tile = unsafe fn(Layout, &[PanelChunk], cols: usize, Int8Rows, sums: &mut [Int8Sums]);

/// Unpacks `cols` columns, whole blocks, of a quantized panel.
pub type Unpack = unsafe fn(Layout, block: *const u8, cols: usize, out: &mut PanelChunk);

/// How a tier multiplies with int8 activations.
pub enum Int8Kernels {
    /// Always straight from packed panels: what unpacks codes is free beside what multiplies them.
    Packed(PackedInt8),
    Unpacked(UnpackedInt8),
}

/// Codes are unpacked once for a block of rows.
pub struct UnpackedInt8 {
    pub tile: Int8Tile,
    /// Straight from packed panels, if the tier has that.
    pub few_rows: Option<Int8Panels>,
    /// The same for any number of rows, where rows of weights have one scale.
    pub by_row: Int8Panels,
}

/// The functions of one tier. All need its instructions, and pointers that are valid for the shapes given.
pub struct MatmulTier {
    pub quantize: unsafe fn(&[f32], RowMut),
    /// In wide groups.
    pub quantize_wide: unsafe fn(&[f32], RowMut),
    pub unpack: Unpack,
    pub int8: Int8Kernels,
    /// Decodes columns of a chunk, whole groups, to (cols, 16).
    pub decode: unsafe fn(&PanelChunk, GroupShape, first_col: usize, out: &mut [Lanes]),
    /// Widens columns of a dense panel to (cols, 16).
    pub widen: unsafe fn(Layout, panel: *const u8, first_col: usize, out: &mut [Lanes]),
    /// Columns of a panel of blocks, as `PackedMatrix::decode_row` decodes them.
    pub columns: unsafe fn(Layout, panel: *const u8, &[ColumnPlace], out: &mut [Lanes]),
    /// Adds each row's outliers times their columns to outputs that lie `stride` apart.
    pub add_columns: unsafe fn(&[Lanes], &[OutlierRow], out: *mut f32, stride: usize),
    pub dense_panels: Option<DensePanels>,
    pub f32_tile: unsafe fn(&F32Weights, F32Rows, cols: usize, panels: usize, sums: &mut [F32Sums]),
    /// None: the tier has no instructions for that.
    pub bf16: Option<&'static Bf16Kernels>,
}

/// Decoded columns: (panels, cols, 16).
pub type F32Weights = [[Lanes; F32_TILE_COLS]; F32_PANELS];

/// Rows of activations from some row and column on: (rows, stride).
#[derive(Clone, Copy)]
pub struct F32Rows {
    pub ptr: *const f32,
    pub stride: usize,
}
