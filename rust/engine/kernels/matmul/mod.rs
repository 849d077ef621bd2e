//! Matrix products with packed weights: y = x · Wᵀ.

mod bf16;
mod driver;
mod outliers;
mod quantize;
mod tier;

use std::marker::PhantomData;
use std::ops::Range;

pub use self::bf16::Bf16Rows;
pub(super) use self::bf16::{Bf16RowMut, Bf16View};
pub(crate) use self::driver::{BLOCK_ROWS, blocks, cached_rows};
pub(super) use self::outliers::{ColumnPlace, OutlierRow, PanelOutliers};
pub use self::outliers::{OutlierRows, Outliers};
pub use self::quantize::QuantizedRows;
pub(super) use self::quantize::{GROUP, Int8Rows, RowMut, WIDE_GROUP};
pub(super) use self::quantize::{code_of, quantize_groups, quantize_wide, scale_of, start_of};
pub(super) use self::tier::{
    BF16_PANELS, Bf16Kernels, Bf16Sums, CHUNK_COLS, F32_PANELS, F32_TILE_COLS, F32Rows, F32Sums, F32Weights,
    GroupShape, INT8_PANELS, Int8Kernels, Int8Sums, Lanes, MatmulTier, NextChunks, PackedPanels, PairChunk, PanelChunk,
    PanelSums, UnpackedInt8,
};
use super::threads::Pool;
use super::{Kernels, scalar};
use crate::config::Isa;
use crate::error::Result;
use crate::quant::{PANEL_ROWS, PackedMatrix};

/// A float32 matrix (rows, stride) that several lanes write, each its own columns or rows.
#[derive(Debug, Clone, Copy)]
pub struct MatMut<'a> {
    pub ptr: *mut f32,
    pub rows: usize,
    /// Floats from one row to the next.
    pub stride: usize,
    pub _life: PhantomData<&'a mut [f32]>,
}

/// A matrix that lanes write, each its own panels' columns.
struct SharedMat<'a>(MatMut<'a>);

// SAFETY: `product` gives each lane columns of its own.
unsafe impl Sync for SharedMat<'_> {}

impl<'a> SharedMat<'a> {
    fn get(&self) -> MatMut<'a> {
        self.0
    }
}

impl<'a> MatMut<'a> {
    /// Memory that stands in for the part of a larger matrix whose first element is (row, col).
    pub fn part(memory: &'a mut [f32], stride: usize, row: usize, col: usize) -> Self {
        let ptr = memory.as_mut_ptr().wrapping_sub(row * stride + col);
        Self { ptr, rows: row + memory.len() / stride, stride, _life: PhantomData }
    }

    /// The rows from `row` on.
    pub fn rows_from(self, row: usize) -> Self {
        assert!(row <= self.rows);
        Self { ptr: self.ptr.wrapping_add(row * self.stride), rows: self.rows - row, ..self }
    }

    /// The matrix has room for these outputs of `w`, as far as its own shape tells.
    fn check(&self, w: &PackedMatrix, panels: &Range<usize>, rows: &Range<usize>) {
        assert!(panels.end <= w.num_panels(), "panel {} of {}", panels.end, w.num_panels());
        let cols = w.rows().min(panels.end * PANEL_ROWS).saturating_sub(panels.start * PANEL_ROWS);
        assert!(rows.end <= self.rows && cols <= self.stride, "{rows:?} x {cols} outputs for {self:?}");
    }

    /// Writes panel `panel`'s outputs of one row, up to column `cols`.
    ///
    /// # Safety
    /// `row` and columns below `cols` lie inside the matrix; nobody else touches them.
    unsafe fn write_panel(&self, row: usize, panel: usize, cols: usize, values: &[f32; PANEL_ROWS]) {
        let first = panel * PANEL_ROWS;
        // SAFETY: columns first .. first + count are below `cols`.
        unsafe {
            let out = self.ptr.wrapping_add(row * self.stride + first);
            match cols - first {
                PANEL_ROWS.. => out.cast::<[f32; PANEL_ROWS]>().write_unaligned(*values),
                count => std::ptr::copy_nonoverlapping(values.as_ptr(), out, count),
            }
        }
    }
}

impl Kernels {
    /// out (rows, 16 × panels) = `x` (rows, w.cols()) times these panels of `w`, by all lanes of the pool. Equals
    /// `matmul_f32`. The panels' columns past `w.rows()` are left as they are.
    pub fn product(
        &self,
        pool: &Pool,
        x: &[f32],
        w: &PackedMatrix,
        panels: Range<usize>,
        out: &mut [f32],
    ) -> Result<()> {
        let (rows, stride) = (x.len() / w.cols(), panels.len() * PANEL_ROWS);
        assert!(out.len() == rows * stride, "{} outputs for {rows} rows of {stride}", out.len());
        let out = SharedMat(MatMut::part(out, stride, 0, panels.start * PANEL_ROWS));
        pool.run(&|lane| {
            let share = lane.share(panels.len());
            let panels = panels.start + share.start..panels.start + share.end;
            // SAFETY: the panels' columns are this lane's; `out` has `rows` rows from the first panel's column on.
            unsafe { self.matmul_f32(w, panels, x, 0..rows, out.get()) };
        })
    }

    fn matmul_tier(&self) -> &'static MatmulTier {
        match self.isa() {
            Isa::Scalar => &scalar::matmul::TIER,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &super::avx2::matmul::TIER,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &super::avx512::matmul::TIER,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => &super::avx512::matmul::BF16_TIER,
            #[cfg(not(target_arch = "x86_64"))]
            _ => unreachable!("Kernels::new grants only what the machine has"),
        }
    }

    /// Quantizes columns of row `row` of `out`, from `first_col` on, from `x`. They are whole groups, but for
    /// the end of the row, which is padded with zeros to a whole group. The same bits in every tier. A group with
    /// a NaN or an infinity decodes to NaN.
    ///
    /// # Safety
    /// `row` is below the rows of the last `resize`; no other lane touches these columns meanwhile.
    pub unsafe fn quantize(&self, x: &[f32], out: &QuantizedRows, row: usize, first_col: usize) {
        let end = first_col + x.len();
        assert!(row < out.rows() && end <= out.cols(), "row {row} of {}, column {end} of {}", out.rows(), out.cols());
        let (group, tier) = (out.group(), self.matmul_tier());
        assert!(first_col.is_multiple_of(group) && (end.is_multiple_of(group) || end == out.cols()));
        let quantize = if group == WIDE_GROUP { tier.quantize_wide } else { tier.quantize };
        // SAFETY: this machine has the tier, and the columns are the caller's.
        unsafe { quantize(x, out.part(row, first_col, x.len())) }
    }

    /// out[r][16 p ..] = row r of `x` times panels `panels` of `w`, for the rows `rows`.
    /// Columns past `w.rows()` are not written. `w` is quantized: dense layouts go through `matmul_f32`.
    ///
    /// Products are summed exactly within a group of 16 or 32 columns; groups are added in ascending order
    /// by float32 fused multiply-adds (the scalar tier rounds twice), in every tier. Tiers differ by at most
    /// 2⁻²² × groups × Σ |w · x|. Where rows of weights have one scale (`Layout::I8Row`), groups are `x`'s wide ones, and that scale
    /// is applied to their sum.
    ///
    /// # Safety
    /// `out` has these rows and columns; no other lane touches them meanwhile, and none writes `x`.
    pub unsafe fn matmul_int8(
        &self,
        w: &PackedMatrix,
        panels: Range<usize>,
        x: &QuantizedRows,
        rows: Range<usize>,
        out: MatMut<'_>,
    ) {
        x.check(w, &rows);
        out.check(w, &panels, &rows);
        // SAFETY: this machine has the tier; the shapes were checked.
        unsafe { driver::int8(self.matmul_tier(), w, panels, x, rows, out, None) }
    }

    /// `matmul_int8` and each row's outliers times their columns of `w`, whose layout has blocks: float32, in the order of the
    /// columns, by fused multiply-adds to the sums of the products (the scalar tier rounds twice).
    ///
    /// # Safety
    /// As for `matmul_int8`.
    pub unsafe fn matmul_int8_with_outliers(
        &self,
        w: &PackedMatrix,
        panels: Range<usize>,
        x: &QuantizedRows,
        outliers: &OutlierRows,
        rows: Range<usize>,
        out: MatMut<'_>,
    ) {
        x.check(w, &rows);
        assert!(outliers.cols.last().is_none_or(|&col| col < w.cols()), "a column of {}", w.cols());
        out.check(w, &panels, &rows);
        // SAFETY: this machine has the tier; the shapes were checked.
        unsafe { driver::int8(self.matmul_tier(), w, panels, x, rows, out, Some(outliers)) }
    }

    /// `matmul_int8` of two matrices of one shape with the same input, each to its own `out`. The same bits; of several rows,
    /// panels of both go together, and their memory is read without a pause.
    ///
    /// # Safety
    /// As for `matmul_int8`.
    pub unsafe fn matmul_int8_pair(
        &self,
        w: [&PackedMatrix; 2],
        panels: Range<usize>,
        x: &QuantizedRows,
        rows: Range<usize>,
        out: [MatMut<'_>; 2],
    ) {
        assert!(w[0].rows() == w[1].rows(), "a pair of {} and {} rows", w[0].rows(), w[1].rows());
        for (w, out) in w.into_iter().zip(&out) {
            x.check(w, &rows);
            out.check(w, &panels, &rows);
        }
        // SAFETY: this machine has the tier; the shapes were checked.
        unsafe { driver::int8_pair(self.matmul_tier(), w, panels, x, rows, out) }
    }

    /// Whether this tier has `matmul_bf16`.
    pub fn multiplies_bf16(&self) -> bool {
        self.matmul_tier().bf16.is_some()
    }

    /// Rounds columns of row `row` of `out`, from `first_col` on, to the nearest bf16, ties to even, where the tier
    /// multiplies those. They are whole groups of 32, but for the end of the row, which is padded with zeros.
    ///
    /// # Safety
    /// As for `quantize`.
    pub unsafe fn round(&self, x: &[f32], out: &Bf16Rows, row: usize, first_col: usize) {
        let end = first_col + x.len();
        assert!(row < out.rows() && end <= out.cols(), "row {row} of {}, column {end} of {}", out.rows(), out.cols());
        assert!(first_col.is_multiple_of(GROUP) && (end.is_multiple_of(GROUP) || end == out.cols()));
        // SAFETY: this machine has the tier, and the columns are the caller's.
        unsafe { (self.bf16_kernels().round)(x, out.part(row, first_col)) }
    }

    fn bf16_kernels(&self) -> &'static Bf16Kernels {
        self.matmul_tier().bf16.expect("bf16 activations are for tiers that multiply them")
    }

    /// `matmul_int8` with bf16 activations, where the tier multiplies those. Serves every layout for which `Layout::takes_bf16`.
    ///
    /// Products are exact, and added in float32: those of the first and the third of four columns, then those of the second and the
    /// fourth. Where weights have scales, that is done by group, and groups are added in ascending order. Weights of f16 are rounded
    /// to bf16. The sum differs from that of the exact products by at most 2⁻²³ × cols × Σ |w · x|.
    ///
    /// # Safety
    /// As for `matmul_int8`.
    pub unsafe fn matmul_bf16(
        &self,
        w: &PackedMatrix,
        panels: Range<usize>,
        x: &Bf16Rows,
        rows: Range<usize>,
        out: MatMut<'_>,
    ) {
        x.check(w, &rows);
        out.check(w, &panels, &rows);
        assert!(w.layout().takes_bf16(), "{:?} with bf16 activations", w.layout());
        // SAFETY: this machine has the tier; the shapes were checked.
        unsafe { driver::bf16(self.bf16_kernels(), w, panels, x, rows, out) }
    }

    /// `matmul_int8` with float32 activations, `x` (rows, w.cols()). Serves every layout.
    ///
    /// Weights are decoded exactly (`dequantize`), and an element's products are added column by column in
    /// ascending order. Tiers differ by at most 2⁻²³ × cols × Σ |w · x|.
    ///
    /// # Safety
    /// As for `matmul_int8`.
    pub unsafe fn matmul_f32(
        &self,
        w: &PackedMatrix,
        panels: Range<usize>,
        x: &[f32],
        rows: Range<usize>,
        out: MatMut<'_>,
    ) {
        assert!(x.len() >= rows.end * w.cols(), "{} activations for {} rows of {}", x.len(), rows.end, w.cols());
        out.check(w, &panels, &rows);
        // SAFETY: this machine has the tier; the shapes were checked.
        unsafe { driver::float32(self.matmul_tier(), w, panels, x, rows, out) }
    }
}
