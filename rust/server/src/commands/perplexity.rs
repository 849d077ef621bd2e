//! `ferrule perplexity`

use std::path::{Path, PathBuf};

use clap::Args;
use ferrule_engine::evaluate::{self, Comparison, Score};
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
    /// Compare with the model that this one was made of, both with float32 activations: mean KL divergence of the next
    /// token's distribution, and the share of equal likeliest tokens
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["activations", "kv_cache_dtype", "quantization", "device"])]
    source: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

impl Perplexity {
    pub fn execute(self) -> Result {
        let text = read_text(&self.file)?;
        let config = EngineConfig { max_num_seqs: 1, enable_prefix_caching: false, ..self.engine.config() };
        config.validate()?;
        let engine = EngineHandle::load(&super::locate(&self.model)?, config)?;
        let windows = evaluate::windows(engine.model().tokenizer.as_deref(), &text, self.ctx as usize)?;
        if let Some(source) = &self.source {
            drop(engine);
            return self.compare(source, &windows);
        }
        let bar = progress::steps("scoring", windows.len() as u64);
        let mut score = Score::default();
        for window in windows {
            add(&mut score, &engine, window)?;
            bar.inc(1);
        }
        bar.finish_and_clear();
        match self.json {
            true => print::json(&self.json(&score)),
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

/// Adds the negative log-likelihoods of a window's tokens.
fn add(score: &mut Score, engine: &EngineHandle, window: Vec<TokenId>) -> Result {
    let params = SamplingParams { max_tokens: 0, prompt_logprobs: Some(0), ..SamplingParams::default() };
    let output = engine.generate(GenerateRequest::new(Prompt::Tokens(window), params))?;
    output.prompt_logprobs.iter().for_each(|token| score.add(-f64::from(token.logprob)));
    Ok(())
}

impl Perplexity {
    fn compare(&self, source: &str, windows: &[Vec<TokenId>]) -> Result {
        let paths = [super::locate(source)?, super::locate(&self.model)?];
        let bar = progress::steps("comparing", windows.len() as u64);
        let compared = evaluate::compare(paths.each_ref().map(|path| &**path), windows, self.engine.threads, || {
            bar.inc(1);
            Ok(())
        })?;
        bar.finish_and_clear();
        match self.json {
            true => print::json(&self.compared_json(source, &compared)),
            false => print::line(&format!(
                "perplexity {:.4}, {:+.2} % of the source's {:.4}; mean KL {:.5} nats, same top {:.2} %, over {} tokens",
                compared.other.perplexity(),
                100.0 * compared.loss(),
                compared.source.perplexity(),
                compared.mean_kl(),
                100.0 * compared.same_top(),
                compared.other.tokens
            )),
        }
    }

    fn compared_json(&self, source: &str, compared: &Comparison) -> serde_json::Value {
        let mut json = self.json(&compared.other);
        json["source"] = json!(source);
        json["source_perplexity"] = json!(compared.source.perplexity());
        json["mean_kl"] = json!(compared.mean_kl());
        json["same_top"] = json!(compared.same_top());
        json
    }

    fn json(&self, score: &Score) -> serde_json::Value {
        json!({
            "model": self.model,
            "file": self.file,
            "ctx": self.ctx,
            "perplexity": score.perplexity(),
            "nll": score.mean(),
            "nll_standard_error": score.standard_error(),
            "tokens": score.tokens,
        })
    }
}
