//! The kernel-ready layout of a weight matrix.

use super::DType;
use crate::weights::TensorView;

/// Rows that lie interleaved.
pub const PANEL_ROWS: usize = 16;

/// How a panel's numbers lie. Every file type maps to one of these without loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {}

/// A weight matrix (rows, cols) in panels of 16 rows, the last one padded with zero rows.
#[derive(Debug)]
pub struct PackedMatrix {}

impl PackedMatrix {
    /// Packs rows of `view`, a matrix [rows, cols]: output row `r` is the source's row `row_of(r)`.
    pub fn pack(_view: &TensorView<'_>, _rows: usize, _row_of: &dyn Fn(usize) -> usize) -> Self {
        todo!()
    }

    pub fn rows(&self) -> usize {
        todo!()
    }

    pub fn cols(&self) -> usize {
        todo!()
    }

    pub fn num_panels(&self) -> usize {
        self.rows().div_ceil(PANEL_ROWS)
    }

    pub fn layout(&self) -> Layout {
        todo!()
    }

    /// The type in the file.
    pub fn dtype(&self) -> DType {
        todo!()
    }

    /// Bytes in memory, padding included.
    pub fn num_bytes(&self) -> usize {
        todo!()
    }

    /// Decodes row `row` to `out` (cols,): embedding lookup.
    pub fn decode_row(&self, _row: usize, _out: &mut [f32]) {
        todo!()
    }
}
