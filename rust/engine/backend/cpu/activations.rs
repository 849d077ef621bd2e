//! The activations of a step, allocated once for the largest one.

use std::sync::{Mutex, RwLock};

use super::buffer::Shared;
use super::experts::Routes;
use crate::config;
use crate::kernels::{Cells, Outliers, QuantizedRows};
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
    /// Inputs of products once more, as int8. None in the exact mode.
    pub attended_int8: Option<QuantizedRows>,
    pub gate_int8: Option<QuantizedRows>,
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
    /// None in the exact mode.
    pub input_int8: Option<QuantizedRows>,
    /// (num_entries, hidden_size): what experts make of it.
    pub output: Shared,
}

/// An input of products with its columns in another order.
#[derive(Debug)]
pub struct Ordered {
    pub float32: Shared,
    /// None in the exact mode.
    pub int8: Option<QuantizedRows>,
}

/// What products read, as far as it is not the same for every model.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    /// Some product reads the gated activations as float32.
    pub float_gate: bool,
    /// Most orders of columns that matrices of one input have beside its own.
    pub num_orders: usize,
    pub wide: Wide,
}

/// Inputs whose int8 groups are wide, because a matrix that reads them is `Layout::I8Row`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wide {
    pub normed: bool,
    pub attended: bool,
    pub gate: bool,
}

/// The residual stream, and what norms make of it.
#[derive(Debug)]
pub struct Stream {
    pub residual: Shared,
    pub normed: Shared,
    /// None in the exact mode.
    pub normed_int8: Option<QuantizedRows>,
    /// (rows,) what Normed had, before the head's product.
    pub outliers: Cells<Outliers>,
    /// Normed in the orders of the matrices that read it.
    pub ordered: Vec<Ordered>,
}

impl Activations {
    pub fn new(
        config: &ModelConfig,
        max_tokens: usize,
        lanes: usize,
        mode: config::Activations,
        inputs: Inputs,
    ) -> Self {
        let shared = |cols| Shared::new(max_tokens, cols);
        let gate_rows = max_tokens * config.experts_per_token();
        let ordered = |rows, cols, count| {
            let one = |_| Ordered { float32: Shared::new(rows, cols), int8: int8(mode, rows, cols, false) };
            (0..count).map(one).collect()
        };
        let stream = |tokens| Stream {
            residual: Shared::new(tokens, config.hidden_size),
            normed: Shared::new(tokens, config.hidden_size),
            normed_int8: int8(mode, tokens, config.hidden_size, inputs.wide.normed),
            outliers: Cells::zeroed(tokens),
            ordered: ordered(tokens, config.hidden_size, inputs.num_orders),
        };
        Self {
            stream: stream(max_tokens),
            private: (0..lanes).map(|_| stream(PRIVATE_TOKENS)).collect(),
            qkv: shared(config.q_dim() + 2 * config.kv_dim()),
            attended: shared(config.q_dim()),
            gate: inputs.float_gate.then(|| Shared::new(gate_rows, config.intermediate_size)),
            projected: shared(config.hidden_size),
            attended_int8: int8(mode, max_tokens, config.q_dim(), inputs.wide.attended),
            gate_int8: int8(mode, gate_rows, config.intermediate_size, inputs.wide.gate),
            experts: config.experts.map(|experts| ExpertActivations {
                logits: shared(experts.count),
                shares: shared(experts.per_token),
                routes: RwLock::default(),
                picked: Mutex::new(vec![0; max_tokens * experts.per_token]),
                input: Shared::new(gate_rows, config.hidden_size),
                input_int8: int8(mode, gate_rows, config.hidden_size, inputs.wide.normed),
                output: Shared::new(gate_rows, config.hidden_size),
            }),
            attended_ordered: ordered(max_tokens, config.q_dim(), inputs.num_orders.min(1)),
        }
    }
}

fn int8(mode: config::Activations, rows: usize, cols: usize, is_wide: bool) -> Option<QuantizedRows> {
    (mode == config::Activations::Int8).then(|| {
        let mut quantized = if is_wide { QuantizedRows::wide() } else { QuantizedRows::default() };
        quantized.resize(rows, cols);
        quantized
    })
}
