//! The engine's settings as flags.

use std::path::PathBuf;

use clap::Args;
use ferrule_engine::EngineConfig;
use ferrule_engine::config::{Activations, Device, KvDtype, Quantization};
use ferrule_store::Store;

use crate::units::parse_bytes;

/// Settings of the engine that every command with an engine has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Threads of the kernels [default: the physical cores that this process may use]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Memory for the KV cache, such as 512MB or 2GiB [default: sized from free memory]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub kv_cache_memory: Option<u64>,
    /// Type of the KV cache: f32, f16, bf16, int8 or fp8 [default: f32 if activations are, otherwise bf16]
    #[arg(long, value_name = "TYPE")]
    pub kv_cache_dtype: Option<KvDtype>,
    /// Host memory where a GPU keeps what it has computed of preempted sequences, such as 4GiB; the CPU has no use for it
    /// [default: none, they are computed again]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value_t = 0, hide_default_value = true)]
    pub swap_space: u64,
    /// On a GPU, wait for the tokens of a step before the next one is scheduled
    #[arg(long)]
    pub no_async_scheduling: bool,
    /// Longest prompt plus output, in tokens [default: what the model was trained for]
    #[arg(long, value_name = "N")]
    pub max_model_len: Option<usize>,
    /// What matrix products compute with: int8 (fast), bf16 (closer, where the CPU multiplies it) or f32 (exact)
    #[arg(long, value_name = "TYPE", default_value_t = Activations::Int8)]
    pub activations: Activations,
    /// Round full-precision weights while they load, also a quantized model's head: int8 or int4
    #[arg(long, value_name = "SCHEME")]
    pub quantization: Option<Quantization>,
    /// Where to compute: cpu, cuda (the first NVIDIA GPU) or cuda-emu (an emulated one, for tests)
    #[arg(long, default_value_t = Device::Cpu)]
    pub device: Device,
    /// On a GPU, have NVIDIA's cuBLASLt multiply from 128 rows on with bf16 weights; answers then depend on what ran beside
    #[arg(long)]
    pub cublaslt: bool,
    /// Pack the weights at every start instead of keeping them packed in the store
    #[arg(long)]
    pub no_packed_weights: bool,
    /// Disk space for packed weights; those not used for longest go first
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "16GiB")]
    pub packed_weights_limit: u64,
}

impl EngineArgs {
    pub fn config(&self) -> EngineConfig {
        EngineConfig {
            threads: self.threads,
            kv_cache_memory: self.kv_cache_memory,
            kv_cache_dtype: self.kv_cache_dtype,
            swap_space: self.swap_space,
            async_scheduling: !self.no_async_scheduling,
            max_model_len: self.max_model_len,
            activations: self.activations,
            quantization: self.quantization,
            device: self.device,
            cublaslt: self.cublaslt,
            packed_weights: if self.no_packed_weights { None } else { packed_weights() },
            packed_weights_limit: self.packed_weights_limit,
            ..EngineConfig::default()
        }
    }
}

/// The store's folder for packed weights. None: there is no store.
fn packed_weights() -> Option<PathBuf> {
    Store::open_default().ok().map(|store| store.packed_weights())
}
