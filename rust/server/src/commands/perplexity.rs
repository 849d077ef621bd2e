//! `ferrule perplexity`

use std::path::{Path, PathBuf};

use clap::Args;
use ferrule_engine::{EngineConfig, EngineHandle, GenerateRequest, Prompt, SamplingParams, TokenId};
use serde_json::json;

use crate::engine_args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::{print, progress};

/// The text is cut into windows of --ctx tokens that do not overlap, each beginning with the model's BOS token if
/// it wants one. Every token of a window but its first is scored, given those before it in the window; the
/// perplexity is the exponential of the mean negative log-likelihood.
#[derive(Debug, Args)]
pub struct Perplexity {
    /// A .gguf file, a Hugging Face folder, or a name such as smollm2
    model: String,
    /// The text, in UTF-8
    file: PathBuf,
    /// Tokens per window
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(2..))]
    ctx: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Negative log-likelihoods in nats.
#[derive(Debug, Default)]
struct Score {
    sum: f64,
    sum_of_squares: f64,
    tokens: usize,
}

impl Perplexity {
    pub fn execute(self) -> Result {
        let text = read_text(&self.file)?;
        let config = EngineConfig { max_num_seqs: 1, enable_prefix_caching: false, ..self.engine.config() };
        config.validate()?;
        let engine = EngineHandle::load(&super::locate(&self.model)?, config)?;
        let windows = windows(&engine, &text, self.ctx as usize)?;
        let bar = progress::steps("scoring", windows.len() as u64);
        let mut score = Score::default();
        for window in windows {
            score.add(&engine, window)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        match self.json {
            true => print::json(&score.json(&self)),
            false => print::line(&format!(
                "perplexity {:.4} ± {:.4} over {} tokens (negative log-likelihood {:.5})",
                score.perplexity(),
                score.perplexity() * score.standard_error(),
                score.tokens,
                score.mean()
            )),
        }
    }
}

fn read_text(path: &Path) -> Result<String> {
    let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|err| wrong(err.to_string()))?;
    String::from_utf8(bytes).map_err(|err| wrong(format!("not UTF-8 text: {err}")))
}

fn windows(engine: &EngineHandle, text: &str, ctx: usize) -> Result<Vec<Vec<TokenId>>> {
    let tokenizer = engine.model().tokenizer.as_ref();
    let tokenizer =
        tokenizer.ok_or_else(|| Failure::usage("this model has no tokenizer, so it cannot score a text"))?;
    let tokens = tokenizer.encode(text, false, false)?;
    // An empty text has nothing but what the model expects at the start and end of one.
    let bos = tokenizer.encode("", true, false)?.first().copied().filter(|&token| Some(token) == tokenizer.bos());
    let windows = tokens.chunks(ctx - bos.iter().len()).map(|chunk| bos.iter().chain(chunk).copied().collect());
    let windows: Vec<Vec<TokenId>> = windows.filter(|window: &Vec<TokenId>| window.len() > 1).collect();
    match windows.is_empty() {
        true => Err(Failure::usage("the text is too short: it needs at least two tokens")),
        false => Ok(windows),
    }
}

impl Score {
    fn add(&mut self, engine: &EngineHandle, window: Vec<TokenId>) -> Result {
        let params = SamplingParams { max_tokens: 0, prompt_logprobs: Some(0), ..SamplingParams::default() };
        let output = engine.generate(GenerateRequest::new(Prompt::Tokens(window), params))?;
        for token in &output.prompt_logprobs {
            let nll = -f64::from(token.logprob);
            self.sum += nll;
            self.sum_of_squares += nll * nll;
            self.tokens += 1;
        }
        Ok(())
    }

    fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Of the mean.
    fn standard_error(&self) -> f64 {
        let n = self.tokens as f64;
        ((self.sum_of_squares / n - self.mean().powi(2)).max(0.0) / n).sqrt()
    }

    fn json(&self, command: &Perplexity) -> serde_json::Value {
        json!({
            "model": command.model,
            "file": command.file,
            "ctx": command.ctx,
            "perplexity": self.perplexity(),
            "nll": self.mean(),
            "nll_standard_error": self.standard_error(),
            "tokens": self.tokens,
        })
    }
}
