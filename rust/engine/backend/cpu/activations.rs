//! The activations of a step, allocated once for the largest one.

use std::sync::{Mutex, RwLock};

use super::buffer::Shared;
use super::experts::Routes;
use super::linear::Forms;
use crate::kernels::{Bf16Rows, Cells, Kernels, Outliers, QuantizedRows};
use crate::model::ModelConfig;

/// Up to this many tokens, each lane computes the residual stream for itself: meeting at a barrier to share the
/// work would take longer than the work.
pub const PRIVATE_TOKENS: usize = 2;

/// Shapes as in [`crate::backend::Act`], with room for the most tokens of a step.
#[derive(Debug)]
pub struct Activations {
    /// Of steps with more than `PRIVATE_TOKENS` tokens.
    pub stream: Stream,
    /// One per lane, for steps with fewer.
    pub private: Vec<Stream>,
    pub qkv: Shared,
    pub attended: Shared,
    /// Where a product reads it as float32.
    pub gate: Option<Shared>,
    pub projected: Shared,
    pub attended_rounded: Rounded,
    pub gate_rounded: Rounded,
    /// For models with experts.
    pub experts: Option<ExpertActivations>,
    /// Attended with its columns in the order of the matrix that reads it, where that has one.
    pub attended_ordered: Vec<Ordered>,
}

/// A token has an entry per expert that it takes; rows of entries are in the order of experts.
#[derive(Debug)]
pub struct ExpertActivations {
    /// (num_tokens, count): what the router says.
    pub logits: Shared,
    /// (num_tokens, per_token), the largest first.
    pub shares: Shared,
    /// (num_tokens, per_token): the experts themselves.
    pub picked: Mutex<Vec<usize>>,
    pub routes: RwLock<Routes>,
    /// (num_entries, hidden_size): Normed.
    pub input: Shared,
    pub input_rounded: Rounded,
    /// (num_entries, hidden_size): what experts make of it.
    pub output: Shared,
}

/// An input of products with its columns in another order.
#[derive(Debug)]
pub struct Ordered {
    pub float32: Shared,
    pub rounded: Rounded,
}

/// An input of products once more, in the forms that its matrices read instead of float32. None at all in the exact mode.
#[derive(Debug)]
pub struct Rounded {
    pub int8: Option<QuantizedRows>,
    pub bf16: Option<Bf16Rows>,
}

impl Rounded {
    fn new(forms: Forms, rows: usize, cols: usize) -> Self {
        let int8 = forms.int8.then(|| {
            let mut int8 = if forms.wide { QuantizedRows::wide() } else { QuantizedRows::default() };
            int8.resize(rows, cols);
            int8
        });
        let bf16 = forms.bf16.then(|| {
            let mut bf16 = Bf16Rows::default();
            bf16.resize(rows, cols);
            bf16
        });
        Self { int8, bf16 }
    }

    /// Columns that are rounded together.
    pub fn group(&self) -> usize {
        self.int8.as_ref().map_or(QuantizedRows::GROUP, QuantizedRows::group)
    }

    pub fn is_some(&self) -> bool {
        self.int8.is_some() || self.bf16.is_some()
    }

    /// Rounds columns of a row, whole groups, from `first_col` on.
    ///
    /// # Safety
    /// No other lane touches these columns before the next barrier.
    pub unsafe fn write(&self, kernels: Kernels, x: &[f32], row: usize, first_col: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(int8) = &self.int8 {
                kernels.quantize(x, int8, row, first_col);
            }
            if let Some(bf16) = &self.bf16 {
                kernels.round(x, bf16, row, first_col);
            }
        }
    }
}

/// How a model's matrices read what they multiply.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    pub normed: Forms,
    pub attended: Forms,
    pub gate: Forms,
    /// Most orders of columns that matrices of one input have beside its own.
    pub num_orders: usize,
}

/// The residual stream, and what norms make of it.
#[derive(Debug)]
pub struct Stream {
    pub residual: Shared,
    pub normed: Shared,
    pub normed_rounded: Rounded,
    /// (rows,) what Normed had, before the head's product.
    pub outliers: Cells<Outliers>,
    /// Normed in the orders of the matrices that read it.
    pub ordered: Vec<Ordered>,
}

impl Activations {
    pub fn new(config: &ModelConfig, max_tokens: usize, lanes: usize, inputs: Inputs) -> Self {
        let shared = |cols| Shared::new(max_tokens, cols);
        let gate_rows = max_tokens * config.experts_per_token();
        let ordered = |forms: Forms, rows, cols, count| {
            let forms = Forms { wide: false, ..forms };
            let one = |_| Ordered { float32: Shared::new(rows, cols), rounded: Rounded::new(forms, rows, cols) };
            (0..count).map(one).collect()
        };
        let stream = |tokens| Stream {
            residual: Shared::new(tokens, config.hidden_size),
            normed: Shared::new(tokens, config.hidden_size),
            normed_rounded: Rounded::new(inputs.normed, tokens, config.hidden_size),
            outliers: Cells::zeroed(tokens),
            ordered: ordered(inputs.normed, tokens, config.hidden_size, inputs.num_orders),
        };
        Self {
            stream: stream(max_tokens),
            private: (0..lanes).map(|_| stream(PRIVATE_TOKENS)).collect(),
            qkv: shared(config.q_dim() + 2 * config.kv_dim()),
            attended: shared(config.q_dim()),
            gate: inputs.gate.float32.then(|| Shared::new(gate_rows, config.intermediate_size)),
            projected: shared(config.hidden_size),
            attended_rounded: Rounded::new(inputs.attended, max_tokens, config.q_dim()),
            gate_rounded: Rounded::new(inputs.gate, gate_rows, config.intermediate_size),
            experts: config.experts.map(|experts| ExpertActivations {
                logits: shared(experts.count),
                shares: shared(experts.per_token),
                routes: RwLock::default(),
                picked: Mutex::new(vec![0; max_tokens * experts.per_token]),
                input: Shared::new(gate_rows, config.hidden_size),
                input_rounded: Rounded::new(inputs.normed, gate_rows, config.hidden_size),
                output: Shared::new(gate_rows, config.hidden_size),
            }),
            attended_ordered: ordered(inputs.attended, max_tokens, config.q_dim(), inputs.num_orders.min(1)),
        }
    }
}
