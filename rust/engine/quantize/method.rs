//! The quantization of matrices that read one input.

use super::awq::{Search, scale_columns};
use super::compute::Compute;
use super::round::{Codes, Grouped};
use super::{Inputs, Matrix, Scheme, gptq, smooth};
use crate::error::Result;
use crate::model::{ModelConfig, Role};

/// A scheme with its choices made.
#[derive(Debug, Clone, Copy)]
pub struct Method {
    pub scheme: Scheme,
    /// Columns that share a scale. None: all of a row.
    pub group: Option<usize>,
}

/// A matrix with what became of it.
#[derive(Debug, Clone)]
pub struct Made {
    pub role: Role,
    pub grouped: Grouped,
    /// (cols,): the codes are of the matrix whose columns were multiplied by these, and the inputs are to be divided
    /// by them. None: they are all one.
    pub input_scale: Option<Vec<f32>>,
}

impl Made {
    /// The matrix that the codes stand for, for inputs as they were.
    pub fn effective(&self) -> Matrix {
        let mut matrix = self.grouped.dequantize();
        if let Some(scale) = &self.input_scale {
            for row in matrix.data.chunks_exact_mut(matrix.cols) {
                row.iter_mut().zip(scale).for_each(|(weight, scale)| *weight /= scale);
            }
        }
        matrix
    }
}

impl Method {
    /// `matrices` are those of `roles`, in order.
    pub fn quantize(
        &self,
        compute: &Compute<'_>,
        config: &ModelConfig,
        inputs: &Inputs<'_>,
        roles: &[Role],
        matrices: Vec<Matrix>,
    ) -> Result<Vec<Made>> {
        let codes = self.scheme.codes();
        let group = self.group.unwrap_or(inputs.cols);
        let (grouped, input_scale) = match self.scheme {
            Scheme::Int4 | Scheme::Int8 => (nearest(&matrices, group, codes), None),
            Scheme::Int4Gptq => {
                let plan = gptq::Plan::new(compute, inputs)?;
                let made = matrices.iter().map(|matrix| plan.quantize(compute, matrix, group, codes));
                (made.collect::<Result<_>>()?, None)
            }
            Scheme::Int4Awq => {
                let search =
                    Search { compute, inputs: *inputs, tie: &tie(config, roles[0], inputs.cols), group, codes };
                let factors = search.factors(&matrices)?;
                (matrices.iter().map(|matrix| search.quantize(matrix, &factors)).collect(), Some(factors))
            }
            Scheme::Int8W8A8 if follows_norm(roles[0]) => {
                let factors = smooth::factors(inputs, &matrices);
                let scaled: Vec<Matrix> = matrices.iter().map(|matrix| scale_columns(matrix, &factors)).collect();
                (nearest(&scaled, group, codes), Some(factors))
            }
            Scheme::Int8W8A8 => (nearest(&matrices, group, codes), None),
        };
        let made = roles.iter().zip(grouped);
        Ok(made.map(|(&role, grouped)| Made { role, grouped, input_scale: input_scale.clone() }).collect())
    }
}

fn nearest(matrices: &[Matrix], group: usize, codes: Codes) -> Vec<Grouped> {
    matrices.iter().map(|matrix| Grouped::nearest(matrix, group, codes)).collect()
}

/// Whether a norm makes the inputs.
fn follows_norm(role: Role) -> bool {
    matches!(role, Role::Query(_) | Role::Key(_) | Role::Value(_) | Role::Gate(_) | Role::Up(_))
}

/// Columns that one row of weights makes, and that can therefore have no factors of their own: those of query heads
/// that share a value head.
fn tie(config: &ModelConfig, role: Role, cols: usize) -> Vec<usize> {
    let per_kv_head = config.q_dim() / config.num_kv_heads;
    let of_value = |col: usize| col / per_kv_head * per_kv_head + col % config.head_dim;
    (0..cols).map(|col| if matches!(role, Role::AttnOutput(_)) { of_value(col) } else { col }).collect()
}
