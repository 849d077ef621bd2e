//! Weight matrices in float32, on their way from a source to codes.

use super::compute::Compute;
use crate::error::{Error, Result};
use crate::model::{Role, Source};
use crate::quant::{PackedMatrix, dequantize};

/// (rows, cols), row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}

impl Matrix {
    /// The matrix of a role, rows in the decoder's order. The source's pages are given back.
    pub fn load(source: &Source, role: Role) -> Result<Self> {
        let part = source.part(role)?;
        if source.checkpoint.column_order(&part.name).is_some() {
            let what = "columns in another order than their groups (act-order), which cannot be quantized again";
            return Err(Error::unsupported(source.checkpoint.path(), format!("the model has {what}")));
        }
        let view = source.checkpoint.tensor(&part.name)?;
        let cols = view.shape.last().copied().unwrap_or(0);
        let row_bytes = view.dtype.row_bytes(cols).expect("tensors were checked when they were opened");
        let mut data = vec![0.0; part.rows * cols];
        for (r, row) in data.chunks_exact_mut(cols).enumerate() {
            dequantize(view.dtype, &view.bytes[(part.row_of)(r) * row_bytes..][..row_bytes], row);
        }
        source.checkpoint.release(&part.name);
        Ok(Self { rows: part.rows, cols, data })
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..][..self.cols]
    }

    pub fn iter_rows(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.cols)
    }

    pub fn pack(&self, compute: &Compute<'_>) -> Result<PackedMatrix> {
        compute.pack(self.rows, self.cols, &|row| self.row(row))
    }
}
