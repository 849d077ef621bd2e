//! `ferrule plan`

use clap::Args;
use ferrule_engine::kernels::Kernels;
use ferrule_engine::kernels::limits::read_bandwidth;
use ferrule_store::Store;
use serde_json::json;

use crate::engine_args::EngineArgs;
use crate::facts::Facts;
use crate::failure::Result;
use crate::machine::{Machine, meminfo};
use crate::{print, units};

#[derive(Debug, Args)]
pub struct Plan {
    /// A name in the store, or a path
    model: String,
    /// Sequences at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    max_num_seqs: usize,
    /// Memory bandwidth in GB/s [default: measured]
    #[arg(long, value_name = "GB/S")]
    bandwidth: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// What the model will need and do.
struct Estimate {
    facts: Facts,
    max_model_len: usize,
    num_seqs: usize,
    kv_bytes_per_token: u64,
    /// For every sequence at its full length; sliding layers keep their window only.
    kv_bytes: u64,
    available_memory: Option<u64>,
    /// Bytes per second.
    bandwidth: f64,
}

impl Plan {
    pub fn execute(self) -> Result {
        let config = self.engine.config();
        config.validate()?;
        let path = Store::open_default()?.resolve(&self.model)?;
        let facts = Facts::open_as(&path, config.quantization)?;
        let max_model_len = config.max_model_len.unwrap_or(facts.config.max_position);
        let kv_bytes_per_position = facts.config.kv_bytes_per_layer(config.kv_dtype());
        let positions = |window: Option<usize>| window.map_or(max_model_len, |window| window.min(max_model_len));
        let kept: usize = facts.config.layers.iter().map(|layer| positions(layer.window)).sum();
        let threads = config.threads.unwrap_or_else(|| Machine::look().default_threads);
        let kernels = Kernels::new(config.isa()?)?;
        let measured = || read_bandwidth(kernels, threads);
        let estimate = Estimate {
            max_model_len,
            num_seqs: self.max_num_seqs.max(1),
            kv_bytes_per_token: facts.config.kv_bytes_per_token(config.kv_dtype()) as u64,
            kv_bytes: (kept * kv_bytes_per_position * self.max_num_seqs.max(1)) as u64,
            available_memory: meminfo("MemAvailable:"),
            bandwidth: self.bandwidth.map_or_else(measured, |gigabytes| gigabytes * 1e9),
            facts,
        };
        match self.json {
            true => print::json(&estimate.json(&self.model)),
            false => print::fields(&estimate.lines()),
        }
    }
}

impl Estimate {
    fn total_bytes(&self) -> u64 {
        self.facts.weight_bytes() + self.kv_bytes
    }

    /// A step reads the weights once, and the keys and values of all sequences, `filled` of their full length.
    fn decode_tokens_per_s(&self, filled: f64) -> f64 {
        let weights = self.facts.weight_bytes() - self.facts.lookup_bytes;
        self.num_seqs as f64 * self.bandwidth / (weights as f64 + self.kv_bytes as f64 * filled)
    }

    fn fits(&self) -> Option<bool> {
        self.available_memory.map(|available| self.total_bytes() <= available)
    }

    fn json(&self, model: &str) -> serde_json::Value {
        let weights: serde_json::Map<_, _> =
            self.facts.weights.iter().map(|(dtype, bytes)| (dtype.to_string(), json!(bytes))).collect();
        json!({
            "model": model,
            "parameters": self.facts.num_parameters,
            "weights": weights,
            "weight_bytes": self.facts.weight_bytes(),
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.num_seqs,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "kv_bytes": self.kv_bytes,
            "total_bytes": self.total_bytes(),
            "available_memory_bytes": self.available_memory,
            "fits": self.fits(),
            "bandwidth_bytes_per_s": self.bandwidth,
            "decode_tokens_per_s": {"empty_context": self.decode_tokens_per_s(0.0), "full_context": self.decode_tokens_per_s(1.0)},
        })
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let weights = self.facts.weights.iter().map(|(dtype, bytes)| format!("{dtype} {}", units::bytes(*bytes)));
        let weights = weights.collect::<Vec<_>>().join(", ");
        let fits = match (self.fits(), self.available_memory) {
            (Some(true), Some(available)) => format!("; it fits in the {} that are free", units::bytes(available)),
            (Some(false), Some(available)) => {
                format!("; it does NOT fit in the {} that are free", units::bytes(available))
            }
            _ => String::new(),
        };
        let company = format!("{} × {} tokens", self.num_seqs, self.max_model_len);
        vec![
            ("model", format!("{}, {} parameters", self.facts.config.name, units::count(self.facts.num_parameters))),
            ("weights", format!("{} ({weights})", units::bytes(self.facts.weight_bytes()))),
            ("KV per token", units::bytes(self.kv_bytes_per_token)),
            ("KV cache", format!("{} for {company}", units::bytes(self.kv_bytes))),
            ("together", format!("{}{fits}", units::bytes(self.total_bytes()))),
            ("bandwidth", format!("{} GB/s", units::three_digits(self.bandwidth / 1e9))),
            (
                "generation",
                format!(
                    "about {} tokens/s at the start of the context, {} at its end; more where caches hold the weights",
                    units::three_digits(self.decode_tokens_per_s(0.0)),
                    units::three_digits(self.decode_tokens_per_s(1.0))
                ),
            ),
        ]
    }
}
