//! SmoothQuant (Xiao et al. 2022, arXiv 2211.10438): where inputs are rounded to eight bits as well, columns with large
//! inputs are divided and their weights multiplied, until both are as hard to round.

use super::{Inputs, Matrix};

/// How much of the inputs' range the weights take over.
const SHARE: f32 = 0.5;
const LEAST: f32 = 1e-5;

/// (cols,): what the weights' columns are multiplied by, and the inputs divided.
pub fn factors(inputs: &Inputs<'_>, matrices: &[Matrix]) -> Vec<f32> {
    let largest = |rows: &mut dyn Iterator<Item = &[f32]>| {
        let mut most = vec![LEAST; inputs.cols];
        rows.for_each(|row| most.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(x.abs())));
        most
    };
    let of_inputs = largest(&mut inputs.x.chunks_exact(inputs.cols));
    let of_weights = largest(&mut matrices.iter().flat_map(Matrix::iter_rows));
    let factor = |(x, w): (&f32, &f32)| (x.powf(SHARE) / w.powf(1.0 - SHARE)).max(LEAST);
    of_inputs.iter().zip(&of_weights).map(factor).collect()
}
