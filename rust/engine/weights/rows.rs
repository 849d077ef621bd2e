//! The rows of a matrix on their way to the packed layout.

use super::TensorView;
use crate::quant::{DType, PANEL_ROWS};

/// The rows of up to one panel, each (row_bytes,); the last ones are empty where there are fewer.
pub type PanelRows<'a> = [&'a [u8]; PANEL_ROWS];

/// Where the blocks of a matrix's rows come from: they lie in a file, or are made when they are asked for.
pub trait RowSource: Sync {
    fn name(&self) -> &str;

    fn dtype(&self) -> DType;

    fn cols(&self) -> usize;

    /// The blocks of `rows`, a panel's at most. Rows that are made lie in `buffer`.
    fn read<'a>(&'a self, rows: &[usize], buffer: &'a mut Vec<u8>) -> PanelRows<'a>;

    fn row_bytes(&self) -> usize {
        self.dtype().row_bytes(self.cols()).expect("rows are whole blocks")
    }
}

impl RowSource for TensorView<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    fn read<'a>(&'a self, rows: &[usize], _buffer: &'a mut Vec<u8>) -> PanelRows<'a> {
        let len = self.row_bytes();
        let mut panel: PanelRows<'a> = [&[]; PANEL_ROWS];
        for (out, &row) in panel.iter_mut().zip(rows) {
            *out = &self.bytes[row * len..][..len];
        }
        panel
    }
}

/// Rows that `make` writes to `buffer`, one after the other.
pub fn make_rows<'a>(
    num_rows: usize,
    row_bytes: usize,
    buffer: &'a mut Vec<u8>,
    make: impl FnOnce(&mut [u8]),
) -> PanelRows<'a> {
    buffer.clear();
    buffer.resize(num_rows * row_bytes, 0);
    make(buffer);
    let mut panel: PanelRows<'a> = [&[]; PANEL_ROWS];
    for (out, row) in panel.iter_mut().zip(buffer.chunks_exact(row_bytes)) {
        *out = row;
    }
    panel
}
