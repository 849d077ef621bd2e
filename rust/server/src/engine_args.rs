//! The engine's settings as flags.

use clap::Args;
use ferrule_engine::EngineConfig;
use ferrule_engine::config::{Activations, Device, KvDtype};

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
    /// Type of the KV cache: f32 or bf16 [default: f32 if activations are, otherwise bf16]
    #[arg(long, value_name = "TYPE")]
    pub kv_cache_dtype: Option<KvDtype>,
    /// Longest prompt plus output, in tokens [default: what the model was trained for]
    #[arg(long, value_name = "N")]
    pub max_model_len: Option<usize>,
    /// What matrix products compute with: int8 (fast) or f32 (exact)
    #[arg(long, value_name = "TYPE", default_value_t = Activations::Int8)]
    pub activations: Activations,
    /// Where to compute: cpu
    #[arg(long, default_value_t = Device::Cpu)]
    pub device: Device,
}

impl EngineArgs {
    pub fn config(&self) -> EngineConfig {
        EngineConfig {
            threads: self.threads,
            kv_cache_memory: self.kv_cache_memory,
            kv_cache_dtype: self.kv_cache_dtype,
            max_model_len: self.max_model_len,
            activations: self.activations,
            device: self.device,
            ..EngineConfig::default()
        }
    }
}
