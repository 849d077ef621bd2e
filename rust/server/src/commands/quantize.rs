//! `ferrule quantize`

use std::path::{Path, PathBuf};

use clap::Args;
use ferrule_engine::quantize::{self, Certificate, Options, Recipe, SEQUENCE_LEN, Text};

use crate::failure::Result;
use crate::progress::Steps;
use crate::{certificate, print};

const DEFAULT_TOKENS: usize = 32 * SEQUENCE_LEN;

/// Layer by layer, a text passes through the model and its matrices are quantized; embeddings and the head stay as they
/// are. The result is a folder that Transformers and Ferrule load, or a .gguf file that llama.cpp and Ferrule load.
/// What is finished stays in DST.partial: the same command goes on from there. At the end source and result are
/// compared, and `ferrule show DST` tells what was found.
#[derive(Debug, Args)]
pub struct Quantize {
    /// A .gguf file, a Hugging Face folder, or a name such as smollm2
    #[arg(value_name = "SRC")]
    source: String,
    /// The folder to make, or the .gguf file
    #[arg(value_name = "DST")]
    target: PathBuf,
    /// Folders: int4-gptq, int4-awq, int8 (any activations), int8-w8a8 (int8 activations), or int4 (rounded to the nearest).
    /// GGUF files: q4_0, q4_k_m, q5_k_m, q6_k or q8_0, with columns weighted by their importance
    #[arg(long, value_name = "SCHEME")]
    scheme: Recipe,
    /// Columns that share a scale: 32, 64 or 128 [default: the largest that fits the model]
    #[arg(long, value_name = "N")]
    group_size: Option<usize>,
    /// Calibration text, in UTF-8 [default: what the model writes by itself]
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Tokens of it to use, at most
    #[arg(long, value_name = "N", default_value_t = DEFAULT_TOKENS, value_parser = tokens)]
    calibration_tokens: usize,
    /// Text to measure the result on [default: a part of the calibration text that is kept apart]
    #[arg(long, value_name = "FILE")]
    evaluation: Option<PathBuf>,
    /// Threads [default: the physical cores that this process may use]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print the certificate as a JSON object
    #[arg(long)]
    json: bool,
}

fn tokens(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(tokens) if tokens >= SEQUENCE_LEN => Ok(tokens),
        _ => Err(format!("it must be a number of at least {SEQUENCE_LEN}")),
    }
}

impl Quantize {
    pub fn execute(self) -> Result {
        let options = Options {
            group_size: self.group_size,
            calibration: self.calibration.map_or(Text::Written, Text::File),
            calibration_tokens: self.calibration_tokens,
            evaluation: self.evaluation,
            threads: self.threads,
            ..Options::new(self.scheme)
        };
        let source = super::locate(&self.source)?;
        let certificate = quantize::quantize(&source, &self.target, &options, &mut Steps::default())?;
        match self.json {
            true => print::line(&certificate.to_json()),
            false => print::fields(&lines(&self.target, &certificate)),
        }
    }
}

fn lines(target: &Path, made: &Certificate) -> Vec<(&'static str, String)> {
    let mut lines = vec![("path", target.display().to_string())];
    lines.extend(certificate::lines(made));
    lines
}
