//! Scales that clip the largest weights where the others gain more by it.

use super::Matrix;
use super::compute::Compute;
use super::round::{Codes, Rounder, Step, range};

/// Scales that are tried: from the one that reaches the largest weight downwards, in these steps.
const SHRINKS: usize = 24;
const SHRINK_STEP: f32 = 0.02;

/// For each group of each row the factors with the least squared error, weighed by the columns' `importance`.
pub fn steps(compute: &Compute<'_>, weights: &Matrix, importance: &[f32], group: usize, codes: Codes) -> Vec<Step> {
    let shares = compute.shares(weights.rows, |rows| {
        let groups = weights.data[rows.start * weights.cols..rows.end * weights.cols].chunks_exact(group);
        let importance = importance.chunks_exact(group).cycle();
        groups.zip(importance).map(|(weights, importance)| best_step(weights, importance, codes)).collect::<Vec<_>>()
    });
    shares.concat()
}

fn best_step(weights: &[f32], importance: &[f32], codes: Codes) -> Step {
    let (low, high) = range(weights);
    let shrinks = (0..SHRINKS).map(|i| 1.0 - SHRINK_STEP * i as f32);
    let tried = shrinks.map(|shrink| codes.step_over((shrink * low, shrink * high)));
    let with_error = tried.map(|step| (error(weights, importance, step.rounder(codes)), step));
    with_error.min_by(|(a, _), (b, _)| a.total_cmp(b)).expect("at least one scale is tried").1
}

fn error(weights: &[f32], importance: &[f32], rounder: Rounder) -> f32 {
    let one = |(&weight, &importance): (&f32, &f32)| {
        let error = weight - rounder.value(rounder.code(weight));
        importance * error * error
    };
    // Eight sums, so that they run side by side.
    let mut sums = [0.0f32; 8];
    for (weights, importance) in weights.chunks(8).zip(importance.chunks(8)) {
        sums.iter_mut().zip(weights.iter().zip(importance)).for_each(|(sum, pair)| *sum += one(pair));
    }
    sums.iter().sum()
}
