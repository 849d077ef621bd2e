//! What calibration tells about the inputs of a linear.

use super::compute::Compute;
use crate::error::Result;

/// Tokens whose products are summed before they are added to the others. No power of two: columns of a transposed
/// part would meet in the same sets of the caches.
const CHUNK_TOKENS: usize = 976;
/// Rows of the Hessian that are computed together.
const BLOCK_ROWS: usize = 256;

/// The inputs that matrices read, (num_tokens, cols).
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    pub x: &'a [f32],
    pub cols: usize,
}

impl Inputs<'_> {
    pub fn num_tokens(&self) -> usize {
        self.x.len() / self.cols
    }

    /// Mean of the squared inputs of each column, (cols,).
    pub fn importance(&self) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.cols];
        for row in self.x.chunks_exact(self.cols) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
        sums.iter().map(|sum| (sum / self.num_tokens() as f64) as f32).collect()
    }

    /// XᵀX / num_tokens, (cols, cols), of which the lower triangle is filled: what a change of the weights costs is
    /// a quadratic form of it.
    pub fn hessian(&self, compute: &Compute<'_>) -> Result<Vec<f32>> {
        let n = self.cols;
        let mut hessian = vec![0.0; n * n];
        for x in self.x.chunks(CHUNK_TOKENS * n) {
            self.add_chunk(compute, x, &mut hessian)?;
        }
        let scale = 1.0 / self.num_tokens() as f32;
        compute.rows(&mut hessian, n, |_, row| row.iter_mut().for_each(|x| *x *= scale));
        Ok(hessian)
    }

    fn add_chunk(&self, compute: &Compute<'_>, x: &[f32], hessian: &mut [f32]) -> Result<()> {
        let (n, tokens) = (self.cols, x.len() / self.cols);
        let mut transposed = vec![0.0; x.len()];
        compute.rows(&mut transposed, tokens, |col, out| {
            out.iter_mut().zip(x[col..].iter().step_by(n)).for_each(|(out, x)| *out = *x);
        });
        let packed = compute.pack_transposed(n, tokens, &|token| &x[token * n..][..n])?;
        for (block, rows) in transposed.chunks(BLOCK_ROWS * tokens).enumerate() {
            let first = block * BLOCK_ROWS;
            let count = rows.len() / tokens;
            let panels = (first + count).div_ceil(16);
            let mut sums = vec![0.0; count * panels * 16];
            compute.kernels.product(compute.pool, rows, &packed, 0..panels, &mut sums)?;
            for (i, sums) in sums.chunks_exact(panels * 16).enumerate() {
                let row = &mut hessian[(first + i) * n..][..first + i + 1];
                row.iter_mut().zip(sums).for_each(|(h, sum)| *h += sum);
            }
        }
        Ok(())
    }
}
