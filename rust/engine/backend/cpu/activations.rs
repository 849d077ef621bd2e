//! The activations of a step, allocated once for the largest one.

use super::buffer::Shared;
use crate::backend::Act;
use crate::config;
use crate::kernels::QuantizedRows;
use crate::model::ModelConfig;

/// Shapes as in [`Act`], with room for `max_tokens` rows.
#[derive(Debug)]
pub struct Activations {
    pub residual: Shared,
    pub normed: Shared,
    pub qkv: Shared,
    pub attended: Shared,
    pub gate: Shared,
    pub up: Shared,
    pub projected: Shared,
    /// The inputs of products once more, as int8. None in the exact mode.
    quantized: Option<Quantized>,
}

#[derive(Debug, Default)]
struct Quantized {
    normed: QuantizedRows,
    attended: QuantizedRows,
    gate: QuantizedRows,
}

impl Activations {
    pub fn new(config: &ModelConfig, max_tokens: usize, mode: config::Activations) -> Self {
        let shared = |cols| Shared::new(max_tokens, cols);
        Self {
            residual: shared(config.hidden_size),
            normed: shared(config.hidden_size),
            qkv: shared(config.q_dim() + 2 * config.kv_dim()),
            attended: shared(config.q_dim()),
            gate: shared(config.intermediate_size),
            up: shared(config.intermediate_size),
            projected: shared(config.hidden_size),
            quantized: (mode == config::Activations::Int8).then(|| Quantized::new(config, max_tokens)),
        }
    }

    pub fn get(&self, act: Act) -> &Shared {
        match act {
            Act::Residual => &self.residual,
            Act::Normed => &self.normed,
            Act::Qkv => &self.qkv,
            Act::Attended => &self.attended,
            Act::Gate => &self.gate,
            Act::Up => &self.up,
            Act::Projected => &self.projected,
        }
    }

    /// The int8 form of an input of products.
    pub fn quantized(&self, act: Act) -> Option<&QuantizedRows> {
        let quantized = self.quantized.as_ref()?;
        match act {
            Act::Normed => Some(&quantized.normed),
            Act::Attended => Some(&quantized.attended),
            Act::Gate => Some(&quantized.gate),
            Act::Residual | Act::Qkv | Act::Up | Act::Projected => None,
        }
    }
}

impl Quantized {
    fn new(config: &ModelConfig, max_tokens: usize) -> Self {
        let mut quantized = Self::default();
        quantized.normed.resize(max_tokens, config.hidden_size);
        quantized.attended.resize(max_tokens, config.q_dim());
        quantized.gate.resize(max_tokens, config.intermediate_size);
        quantized
    }
}
