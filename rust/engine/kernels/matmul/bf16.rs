//! Rows of activations as bf16.

use std::ops::Range;

use super::GROUP;
use crate::kernels::Cells;
use crate::quant::PackedMatrix;

/// Rows of activations rounded to bf16. Of every four columns the second and the third are swapped: a product takes two
/// columns at a time, and those are the pairs into which a line of four-bit codes falls by shifts alone.
#[derive(Debug, Default)]
pub struct Bf16Rows {
    rows: usize,
    cols: usize,
    /// (rows, stride).
    numbers: Cells<u16>,
    /// Sums of what was rounded, which weights' minima are multiplied with: per 32 columns (rows, groups), and per 16
    /// (rows, 2 groups).
    sums: [Cells<f32>; 2],
}

impl Bf16Rows {
    /// Makes room for (rows, cols); keeps its memory when it has enough. The contents are unspecified.
    pub fn resize(&mut self, rows: usize, cols: usize) {
        (self.rows, self.cols) = (rows, cols);
        self.numbers.reserve(rows * self.stride());
        for (i, per_group) in [1, 2].into_iter().enumerate() {
            self.sums[i].reserve(rows * per_group * self.groups());
        }
    }

    /// These rows are there, for products with `w`.
    pub(super) fn check(&self, w: &PackedMatrix, rows: &Range<usize>) {
        assert!(self.cols == w.cols(), "{} activations for {} columns", self.cols, w.cols());
        assert!(rows.end <= self.rows, "row {} of {}", rows.end, self.rows);
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    fn groups(&self) -> usize {
        self.cols.div_ceil(GROUP)
    }

    /// Whole cache lines, which are whole groups; an odd number, so that the rows of a tile fall into different cache sets.
    fn stride(&self) -> usize {
        GROUP * (self.groups() | 1)
    }

    /// The groups of a row from column `first_col` on.
    #[inline]
    pub(super) fn part(&self, row: usize, first_col: usize) -> Bf16RowMut {
        let index = row * self.groups() + first_col / GROUP;
        Bf16RowMut {
            numbers: self.numbers.at(row * self.stride() + first_col),
            sums: [self.sums[0].at(index), self.sums[1].at(2 * index)],
        }
    }

    /// Rows from `row` on and columns from `col` on, for weights in groups of `group` (16 or 32).
    pub(super) fn view(&self, row: usize, col: usize, group: usize) -> Bf16View {
        let halves = usize::from(group == GROUP / 2);
        let sum_stride = self.groups() << halves;
        Bf16View {
            numbers: self.numbers.at(row * self.stride() + col),
            stride: self.stride(),
            sums: self.sums[halves].at(row * sum_stride + col / group),
            sum_stride,
        }
    }
}

/// Where groups of a row are written: whole ones, the last with zeros behind its end.
#[derive(Clone, Copy)]
pub struct Bf16RowMut {
    pub numbers: *mut u16,
    /// As the field of [`Bf16Rows`], from the first of these groups on.
    pub sums: [*mut f32; 2],
}

/// Rounded rows as kernels read them, from some row and column on.
#[derive(Clone, Copy)]
pub struct Bf16View {
    /// (rows, stride).
    pub numbers: *const u16,
    pub stride: usize,
    /// (rows, sum_stride), one per group of the weights.
    pub sums: *const f32,
    pub sum_stride: usize,
}

impl Bf16View {
    /// The same columns, `rows` rows further down.
    ///
    /// # Safety
    /// There are that many rows.
    pub unsafe fn skip_rows(&self, rows: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self { numbers: self.numbers.add(rows * self.stride), sums: self.sums.add(rows * self.sum_stride), ..*self }
        }
    }
}
