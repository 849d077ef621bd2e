//! Dense float32 algebra for quantization, on the engine's kernels and all cores.

use std::ops::Range;

use crate::error::Result;
use crate::kernels::Kernels;
use crate::kernels::threads::Pool;
use crate::quant::{PANEL_ROWS, PackedMatrix};

#[derive(Debug, Clone, Copy)]
pub struct Compute<'a> {
    pub kernels: Kernels,
    pub pool: &'a Pool,
}

impl Compute<'_> {
    /// `x` (rows, cols) · `w`ᵀ, where `w` is (outputs, cols): (rows, outputs), outputs rounded up to whole panels.
    pub fn product(&self, x: &[f32], w: &PackedMatrix) -> Result<Vec<f32>> {
        let mut out = vec![0.0; x.len() / w.cols() * w.num_panels() * PANEL_ROWS];
        self.kernels.product(self.pool, x, w, 0..w.num_panels(), &mut out)?;
        Ok(out)
    }

    /// The (rows, cols) matrix with these rows, for `product` to take as `w`.
    pub fn pack<'r>(
        &self,
        rows: usize,
        cols: usize,
        row: &(dyn Fn(usize) -> &'r [f32] + Sync),
    ) -> Result<PackedMatrix> {
        PackedMatrix::computed(rows, cols, self.pool, &|panel, numbers| {
            for lane in 0..PANEL_ROWS.min(rows - panel * PANEL_ROWS) {
                let column = numbers[lane..].iter_mut().step_by(PANEL_ROWS);
                column.zip(row(panel * PANEL_ROWS + lane)).for_each(|(number, x)| *number = *x);
            }
        })
    }

    /// The same for the transpose of the (cols, rows) matrix with these rows.
    pub fn pack_transposed<'r>(
        &self,
        rows: usize,
        cols: usize,
        col: &(dyn Fn(usize) -> &'r [f32] + Sync),
    ) -> Result<PackedMatrix> {
        PackedMatrix::computed(rows, cols, self.pool, &|panel, numbers| {
            let first = panel * PANEL_ROWS;
            let count = PANEL_ROWS.min(rows - first);
            for (k, numbers) in numbers.chunks_exact_mut(PANEL_ROWS).enumerate() {
                numbers[..count].copy_from_slice(&col(k)[first..][..count]);
            }
        })
    }

    /// `work` on contiguous shares of `n` items, one share a thread, in order.
    pub fn shares<T: Send>(&self, n: usize, work: impl Fn(Range<usize>) -> T + Sync) -> Vec<T> {
        let threads = self.pool.num_lanes().min(n.max(1));
        let share = |i: usize| i * n / threads..(i + 1) * n / threads;
        std::thread::scope(|scope| {
            let work = &work;
            let others: Vec<_> = (1..threads).map(|i| scope.spawn(move || work(share(i)))).collect();
            let mut done = vec![work(share(0))];
            done.extend(others.into_iter().map(|other| other.join().unwrap_or_else(|p| std::panic::resume_unwind(p))));
            done
        })
    }

    /// `work` on every row of `width` numbers, with its index.
    pub fn rows<T: Send>(&self, data: &mut [T], width: usize, work: impl Fn(usize, &mut [T]) + Sync) {
        let per_share = (data.len() / width).div_ceil(self.pool.num_lanes()).max(1);
        std::thread::scope(|scope| {
            for (share, rows) in data.chunks_mut(per_share * width).enumerate() {
                let work = &work;
                scope.spawn(move || {
                    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                        work(share * per_share + i, row);
                    }
                });
            }
        });
    }
}
