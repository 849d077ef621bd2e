//! AWQ (Lin et al. 2023, arXiv 2306.00978): columns that meet large inputs are multiplied before rounding, so that they
//! lose less; what makes the inputs divides them. The factors are a power of the inputs' mean magnitude, and the power
//! is searched for; then each group's largest weights are clipped as far as that helps.

use super::clip::steps;
use super::compute::Compute;
use super::round::{Codes, Grouped};
use super::{Inputs, Matrix};
use crate::error::Result;
use crate::quant::PackedMatrix;

/// Powers that are tried, from 0 (no scaling) to 1.
const POWERS: usize = 21;
/// Tokens on which the error of the outputs is measured.
const SAMPLE: usize = 768;

/// What stands before a set of matrices.
pub struct Search<'a> {
    pub compute: &'a Compute<'a>,
    pub inputs: Inputs<'a>,
    /// (cols,): columns with the same number get the same factor.
    pub tie: &'a [usize],
    pub group: usize,
    pub codes: Codes,
}

impl Search<'_> {
    /// (cols,): the factors with the least error in the outputs of all matrices together.
    pub fn factors(&self, matrices: &[Matrix]) -> Result<Vec<f32>> {
        let sample = self.sample()?;
        let magnitude = self.magnitude();
        let mut best = (f64::INFINITY, vec![1.0; self.inputs.cols]);
        for i in 0..POWERS {
            let factors = factors(&magnitude, i as f32 / (POWERS - 1) as f32);
            let error = self.error(matrices, &factors, &sample)?;
            if error < best.0 {
                best = (error, factors);
            }
        }
        Ok(best.1)
    }

    /// Quantizes a matrix whose columns are multiplied by `factors`, with clipping.
    pub fn quantize(&self, matrix: &Matrix, factors: &[f32]) -> Grouped {
        let scaled = scale_columns(matrix, factors);
        let importance = self.inputs.importance();
        let importance: Vec<f32> = importance.iter().zip(factors).map(|(x, factor)| x / (factor * factor)).collect();
        let steps = steps(self.compute, &scaled, &importance, self.group, self.codes);
        Grouped::with_steps(&scaled, self.group, self.codes, steps)
    }

    /// Mean magnitude of the inputs, (cols,), the same for tied columns.
    fn magnitude(&self) -> Vec<f32> {
        let mut sums = vec![0.0f64; self.inputs.cols];
        for row in self.inputs.x.chunks_exact(self.inputs.cols) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x.abs()));
        }
        let mut tied = vec![(0.0f64, 0usize); self.inputs.cols];
        for (sum, &tie) in sums.iter().zip(self.tie) {
            tied[tie] = (tied[tie].0 + sum, tied[tie].1 + self.inputs.num_tokens());
        }
        self.tie.iter().map(|&tie| (tied[tie].0 / tied[tie].1 as f64) as f32).collect()
    }

    /// Tokens spread over all of them, (SAMPLE, cols).
    fn sample(&self) -> Result<PackedMatrix> {
        let (tokens, cols) = (self.inputs.num_tokens(), self.inputs.cols);
        let count = SAMPLE.min(tokens);
        self.compute.pack(count, cols, &|i| &self.inputs.x[i * tokens / count * cols..][..cols])
    }

    /// Sum of the squared errors of the outputs.
    fn error(&self, matrices: &[Matrix], factors: &[f32], sample: &PackedMatrix) -> Result<f64> {
        let mut sum = 0.0;
        for matrix in matrices {
            let outputs = self.compute.product(&self.weight_errors(matrix, factors), sample)?;
            let width = outputs.len() / matrix.rows;
            let squares = self.compute.shares(matrix.rows, |rows| {
                let outputs = &outputs[rows.start * width..rows.end * width];
                outputs.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
            });
            sum += squares.iter().sum::<f64>();
        }
        Ok(sum)
    }

    /// What rounding changes in each weight, as the inputs before scaling see it.
    fn weight_errors(&self, matrix: &Matrix, factors: &[f32]) -> Vec<f32> {
        let mut errors = matrix.data.clone();
        self.compute.rows(&mut errors, matrix.cols, |_, row| {
            row.iter_mut().zip(factors).for_each(|(weight, factor)| *weight *= factor);
            for (weights, factors) in row.chunks_exact_mut(self.group).zip(factors.chunks_exact(self.group)) {
                let rounder = self.codes.step(weights).rounder(self.codes);
                for (weight, factor) in weights.iter_mut().zip(factors) {
                    *weight = (rounder.value(rounder.code(*weight)) - *weight) / factor;
                }
            }
        });
        errors
    }
}

/// Powers of the magnitudes around their geometric middle, so that weights keep their size.
fn factors(magnitude: &[f32], power: f32) -> Vec<f32> {
    const LEAST: f32 = 1e-4;
    let raised: Vec<f32> = magnitude.iter().map(|m| m.powf(power).max(LEAST)).collect();
    let (low, high) = raised.iter().fold((f32::MAX, 0.0f32), |(low, high), &x| (low.min(x), high.max(x)));
    let middle = (low * high).sqrt();
    raised.iter().map(|x| x / middle).collect()
}

pub fn scale_columns(matrix: &Matrix, factors: &[f32]) -> Matrix {
    let mut scaled = matrix.clone();
    for row in scaled.data.chunks_exact_mut(scaled.cols) {
        row.iter_mut().zip(factors).for_each(|(weight, factor)| *weight *= factor);
    }
    scaled
}
