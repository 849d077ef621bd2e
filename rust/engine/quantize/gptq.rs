//! GPTQ (Frantar et al. 2022, arXiv 2210.17323): columns are rounded one after another, and later columns make up
//! for the errors of earlier ones. The columns with the largest inputs go first (act-order). Groups are those of the
//! columns' own places, and their scales are chosen before, so that the result needs no order of its own.

use super::cholesky::feedback;
use super::clip::steps;
use super::compute::Compute;
use super::round::{Codes, Grouped, Step};
use super::{Inputs, Matrix};
use crate::error::Result;

/// Columns whose errors are collected before later columns take them in.
const BLOCK: usize = 128;
/// Added to the Hessian's diagonal, as a share of its mean.
const DAMPING: f32 = 0.01;

/// What the inputs of matrices say about the order of columns and about their errors.
pub struct Plan {
    /// Columns in the order in which they are rounded.
    order: Vec<usize>,
    /// (cols, cols) in that order: see `feedback`.
    feedback: Vec<f32>,
    /// (cols,)
    importance: Vec<f32>,
}

impl Plan {
    pub fn new(compute: &Compute<'_>, inputs: &Inputs<'_>) -> Result<Self> {
        let hessian = inputs.hessian(compute)?;
        let importance: Vec<f32> = (0..inputs.cols).map(|k| hessian[k * inputs.cols + k]).collect();
        let mut order: Vec<usize> = (0..inputs.cols).collect();
        order.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]));
        let mean = importance.iter().sum::<f32>() / inputs.cols as f32;
        let damping = if mean > 0.0 { DAMPING * mean } else { 1.0 };
        let feedback = feedback(compute, &hessian, &order, damping)?;
        Ok(Self { order, feedback, importance })
    }

    /// With the scales that lose least where columns are rounded one by one.
    pub fn quantize(&self, compute: &Compute<'_>, weights: &Matrix, group: usize, codes: Codes) -> Result<Grouped> {
        let steps = steps(compute, weights, &self.importance, group, codes);
        self.round(compute, weights, group, codes, steps)
    }

    /// With given scales, (rows, cols / group).
    pub fn round(
        &self,
        compute: &Compute<'_>,
        weights: &Matrix,
        group: usize,
        codes_of: Codes,
        steps: Vec<Step>,
    ) -> Result<Grouped> {
        let rounding = Rounding { plan: self, compute, group, codes: codes_of, steps: &steps, n: weights.cols };
        let codes = rounding.run(weights)?;
        Ok(Grouped { rows: weights.rows, cols: weights.cols, group, codes_of, codes, steps })
    }
}

/// One matrix on its way through its columns.
struct Rounding<'a> {
    plan: &'a Plan,
    compute: &'a Compute<'a>,
    group: usize,
    codes: Codes,
    /// (rows, n / group)
    steps: &'a [Step],
    /// Columns.
    n: usize,
}

/// A row's errors (n,) in the plan's order, and its codes in their places.
#[derive(Clone)]
struct Row {
    errors: Vec<f32>,
    codes: Vec<u8>,
}

impl Rounding<'_> {
    /// Codes (rows, n).
    fn run(&self, weights: &Matrix) -> Result<Vec<u8>> {
        let mut rows = vec![Row { errors: vec![0.0; self.n], codes: vec![0; self.n] }; weights.rows];
        for first in (0..self.n).step_by(BLOCK) {
            let end = self.n.min(first + BLOCK);
            let (changes, stride) = self.changes(&rows, first, end)?;
            self.compute.rows(&mut rows, 1, |r, row| {
                let mut change = [0.0; BLOCK];
                if stride > 0 {
                    change[..end - first].copy_from_slice(&changes[r * stride..][..end - first]);
                }
                self.round_block(r, weights.row(r), first, &mut change[..end - first], &mut row[0]);
            });
        }
        Ok(rows.into_iter().flat_map(|row| row.codes).collect())
    }

    /// What columns first..end take in from the errors of all before them: (rows, stride).
    fn changes(&self, rows: &[Row], first: usize, end: usize) -> Result<(Vec<f32>, usize)> {
        if first == 0 {
            return Ok((Vec::new(), 0));
        }
        let mut errors = vec![0.0; rows.len() * first];
        self.compute.rows(&mut errors, first, |r, out| out.copy_from_slice(&rows[r].errors[..first]));
        let feedback = |col: usize| &self.plan.feedback[col * self.n..][first..end];
        let packed = self.compute.pack_transposed(end - first, first, &feedback)?;
        let changes = self.compute.product(&errors, &packed)?;
        let stride = changes.len() / rows.len();
        Ok((changes, stride))
    }

    /// Rounds columns `first ..` of row `r`; `change` is what each takes in, and grows with every error.
    fn round_block(&self, r: usize, weights: &[f32], first: usize, change: &mut [f32], row: &mut Row) {
        let steps = &self.steps[r * (self.n / self.group)..];
        for k in 0..change.len() {
            let col = self.plan.order[first + k];
            let rounder = steps[col / self.group].rounder(self.codes);
            let code = rounder.code(weights[col] + change[k]);
            let error = weights[col] - rounder.value(code);
            row.codes[col] = code as u8;
            row.errors[first + k] = error;
            let feedback = &self.plan.feedback[(first + k) * self.n + first..][..change.len()];
            change[k + 1..].iter_mut().zip(&feedback[k + 1..]).for_each(|(change, f)| *change += error * f);
        }
    }
}
