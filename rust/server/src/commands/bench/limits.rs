//! What a batch asks of the machine, and what the machine can give.

use ferrule_engine::EngineHandle;
use ferrule_engine::config::{Activations, KvDtype};
use ferrule_engine::info::ModelInfo;
use ferrule_engine::kernels::Kernels;
use ferrule_engine::kernels::limits::{Arithmetic, peak, read_bandwidth};
use ferrule_engine::kernels::threads::Pool;
use ferrule_engine::model::ModelConfig;
use serde_json::{Value, json};

use crate::failure::Result;
use crate::units::three_digits;

/// A batch of equal requests. A product counts as two operations; norms, activations and the like are not counted.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// None for the null model, which computes nothing.
    pub config: Option<&'a ModelConfig>,
    /// Bytes of weights that a step reads.
    pub weight_bytes: u64,
    pub kv_dtype: KvDtype,
    pub batch: usize,
    pub prompt_len: usize,
    pub gen_len: usize,
}

impl Workload<'_> {
    /// Mean over a prompt, of which one token needs logits. Attention sees each position's own past.
    pub fn prefill_ops_per_token(&self) -> Option<f64> {
        let config = self.config?;
        let attention = mean(0..self.prompt_len, |position| config.attention_products(position));
        let head = config.head_products() as f64 / self.prompt_len as f64;
        Some(2.0 * (config.layer_products() as f64 + head + attention))
    }

    /// Mean over the tokens that are computed after the first one.
    pub fn decode_ops_per_token(&self) -> Option<f64> {
        let config = self.config?;
        let attention = mean(self.decoded(), |position| config.attention_products(position));
        Some(2.0 * ((config.layer_products() + config.head_products()) as f64 + attention))
    }

    /// Weights once, and every sequence's keys and values: mean over the steps.
    pub fn decode_bytes_per_step(&self) -> Option<f64> {
        let config = self.config?;
        let kv = mean(self.decoded(), |position| config.kv_bytes_read(position, self.kv_dtype));
        Some(self.weight_bytes as f64 + self.batch as f64 * kv)
    }

    /// Positions of the tokens that are fed back.
    fn decoded(&self) -> std::ops::Range<usize> {
        self.prompt_len..self.prompt_len + self.gen_len - 1
    }
}

/// 0 over no positions.
fn mean(positions: std::ops::Range<usize>, of: impl Fn(usize) -> u64) -> f64 {
    let count = positions.len().max(1);
    positions.map(of).sum::<u64>() as f64 / count as f64
}

/// The machine's limits with the engine's threads.
#[derive(Debug)]
pub struct Ceilings {
    threads: usize,
    /// Bytes per second from memory.
    pub read: f64,
    arithmetic: Arithmetic,
    /// Operations per second; None where the tier has no vector instructions for it.
    pub ops: Option<f64>,
}

impl Ceilings {
    /// To be taken while the engine is idle.
    pub fn measure(engine: &EngineHandle) -> Result<Self> {
        let config = engine.config();
        let kernels = Kernels::new(config.isa()?)?;
        let threads = config.threads.unwrap_or_else(Pool::default_threads);
        let arithmetic = arithmetic(engine.model(), config.activations, kernels);
        Ok(Self {
            threads,
            read: read_bandwidth(kernels, threads),
            arithmetic,
            ops: peak(kernels, threads, arithmetic),
        })
    }

    /// The better of two measurements: cores that share one of the host's for a while halve what is measured.
    pub fn or(self, other: Self) -> Self {
        let ops = self.ops.into_iter().chain(other.ops).reduce(f64::max);
        Self { read: self.read.max(other.read), ops, ..self }
    }

    pub fn json(&self) -> Value {
        json!({
            "threads": self.threads,
            "read_bytes_per_s": self.read,
            "arithmetic": self.arithmetic_name(),
            "ops_per_s": self.ops,
        })
    }

    /// For people.
    pub fn line(&self) -> String {
        let ops = self.ops.map_or("unknown".into(), |ops| format!("{} GOPS", three_digits(ops / 1e9)));
        let (read, name, threads) = (three_digits(self.read / 1e9), self.arithmetic_name(), self.threads);
        format!("limits of {threads} threads: memory read {read} GB/s, {name} {ops}")
    }

    fn arithmetic_name(&self) -> &'static str {
        match self.arithmetic {
            Arithmetic::Int8 => "int8",
            Arithmetic::Int4 => "int8 x int4",
            Arithmetic::Bf16 => "bf16",
            Arithmetic::F32 => "f32",
        }
    }
}

/// What most of the model's products are computed with.
fn arithmetic(model: &ModelInfo, activations: Activations, kernels: Kernels) -> Arithmetic {
    let Some(config) = &model.config else { return Arithmetic::F32 };
    let weights = config.layer_products() + config.head_products();
    match (activations, 8.0 * model.weight_bytes as f64 / weights as f64) {
        (Activations::F32, _) => Arithmetic::F32,
        (Activations::Int8, bits) if bits < 6.5 => Arithmetic::Int4,
        (Activations::Int8, bits) if bits < 12.0 => Arithmetic::Int8,
        (Activations::Int8 | Activations::Bf16, bits) if bits < 24.0 && kernels.multiplies_bf16() => Arithmetic::Bf16,
        _ => Arithmetic::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_over_nothing_is_nothing() {
        assert_eq!(mean(5..5, |_| 7), 0.0);
        assert_eq!(mean(1..4, |position| position as u64), 2.0);
    }
}
