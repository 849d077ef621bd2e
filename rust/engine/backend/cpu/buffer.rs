//! Memory that lanes share between barriers.

use std::marker::PhantomData;
use std::ops::Range;

use crate::kernels::{Cells, MatMut};

/// A float32 matrix (rows, cols), row-major. Between two barriers, each element has one writer or any
/// number of readers; the operations of [`super::CpuLane`] keep to that.
#[derive(Debug)]
pub struct Shared {
    data: Cells<f32>,
    rows: usize,
    cols: usize,
}

impl Shared {
    pub fn new(rows: usize, cols: usize) -> Self {
        Self { data: Cells::zeroed(rows * cols), rows, cols }
    }

    fn ptr(&self) -> *mut f32 {
        self.data.ptr()
    }

    /// # Safety
    /// No lane writes this row before the next barrier.
    pub unsafe fn row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows);
        // SAFETY: inside the allocation; the caller rules out writers.
        unsafe { std::slice::from_raw_parts(self.ptr().add(row * self.cols), self.cols) }
    }

    /// # Safety
    /// No other lane touches this row before the next barrier.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn row_mut(&self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: inside the allocation; the caller rules out other users.
        unsafe { std::slice::from_raw_parts_mut(self.ptr().add(row * self.cols), self.cols) }
    }

    /// Columns of a row.
    ///
    /// # Safety
    /// No other lane touches them before the next barrier.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part_mut(&self, row: usize, cols: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && cols.start <= cols.end && cols.end <= self.cols);
        // SAFETY: inside the allocation; the caller rules out other users.
        unsafe { std::slice::from_raw_parts_mut(self.ptr().add(row * self.cols + cols.start), cols.len()) }
    }

    /// Rows as one slice.
    ///
    /// # Safety
    /// As for `row`.
    pub unsafe fn rows(&self, rows: Range<usize>) -> &[f32] {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        // SAFETY: inside the allocation; the caller rules out writers.
        unsafe { std::slice::from_raw_parts(self.ptr().add(rows.start * self.cols), rows.len() * self.cols) }
    }

    /// The matrix from column `col` on, for kernels that write their own columns.
    pub fn columns_from(&self, col: usize) -> MatMut<'_> {
        assert!(col <= self.cols);
        MatMut { ptr: self.ptr().wrapping_add(col), rows: self.rows, stride: self.cols, _life: PhantomData }
    }

    pub fn cols(&self) -> usize {
        self.cols
    }
}
