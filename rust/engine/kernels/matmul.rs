//! Matrix products with packed weights: y = x · Wᵀ.

use std::marker::PhantomData;
use std::ops::Range;

use super::Kernels;
use crate::quant::PackedMatrix;

/// Rows of activations as int8 in groups of 32: x ≈ q * scale of the group.
#[derive(Debug, Default)]
pub struct QuantizedRows {}

impl QuantizedRows {
    /// Makes room for (rows, cols); keeps its memory when it has enough. The contents are unspecified.
    pub fn resize(&mut self, _rows: usize, _cols: usize) {
        todo!()
    }
}

/// A float32 matrix (rows, stride) that several lanes write, each its own columns or rows.
#[derive(Debug, Clone, Copy)]
pub struct MatMut<'a> {
    pub ptr: *mut f32,
    pub rows: usize,
    /// Floats from one row to the next.
    pub stride: usize,
    pub _life: PhantomData<&'a mut [f32]>,
}

impl Kernels {
    /// Quantizes row `row` of `out` from `x` (cols,). Columns past a whole group of 32 are padded with zeros.
    ///
    /// # Safety
    /// `row` is below the rows of the last `resize`; no other lane touches this row meanwhile.
    pub unsafe fn quantize_row(&self, _x: &[f32], _out: &QuantizedRows, _row: usize) {
        todo!()
    }

    /// out[r][16 p ..] = rows of `x` times panels `panels` of `w`, for the first `rows` rows.
    /// Columns past `w.rows()` are not written.
    ///
    /// # Safety
    /// `out` has `rows` rows and at least `w.rows()` columns; no other lane touches these columns meanwhile,
    /// and none writes `x`.
    pub unsafe fn matmul_int8(
        &self,
        _w: &PackedMatrix,
        _panels: Range<usize>,
        _x: &QuantizedRows,
        _rows: usize,
        _out: MatMut<'_>,
    ) {
        todo!()
    }

    /// The same with float32 activations, `x` (rows, w.cols()). Serves every layout.
    ///
    /// # Safety
    /// As for `matmul_int8`.
    pub unsafe fn matmul_f32(
        &self,
        _w: &PackedMatrix,
        _panels: Range<usize>,
        _x: &[f32],
        _rows: usize,
        _out: MatMut<'_>,
    ) {
        todo!()
    }
}
