//! How well a model predicts a text, and how close another one stays to it.

use std::path::Path;

use crate::config::{Activations, EngineConfig};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::kernels::BLOCK_SIZE;
use crate::load::load;
use crate::runner::{ModelOutput, ModelRunner};
use crate::sched::{RowsWanted, SchedulerOutput};
use crate::text::Tokenizer;

/// Tokens whose logits are computed at once: of two models with a large vocabulary they take a quarter of a GB.
const CHUNK: usize = 128;

/// A text as windows of at most `ctx` tokens that do not overlap, each beginning with the model's BOS token if it
/// wants one. Every window has two tokens or more.
pub fn windows(tokenizer: Option<&Tokenizer>, text: &str, ctx: usize) -> Result<Vec<Vec<TokenId>>> {
    let wrong = |what: &str| Error::InvalidRequest(what.into());
    let tokenizer = tokenizer.ok_or_else(|| wrong("this model has no tokenizer, so it cannot read a text"))?;
    let tokens = tokenizer.encode(text, false, false)?;
    // An empty text has nothing but what the model expects at the start and end of one.
    let bos = tokenizer.encode("", true, false)?.first().copied().filter(|&token| Some(token) == tokenizer.bos());
    let windows = tokens.chunks(ctx - bos.iter().len()).map(|chunk| bos.iter().chain(chunk).copied().collect());
    let windows: Vec<Vec<TokenId>> = windows.filter(|window: &Vec<TokenId>| window.len() > 1).collect();
    match windows.is_empty() {
        true => Err(wrong("the text is too short: it needs at least two tokens")),
        false => Ok(windows),
    }
}

/// Negative log-likelihoods of tokens, in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    sum: f64,
    sum_of_squares: f64,
    pub tokens: usize,
}

impl Score {
    pub fn add(&mut self, nll: f64) {
        self.sum += nll;
        self.sum_of_squares += nll * nll;
        self.tokens += 1;
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.tokens as f64
    }

    pub fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Of the mean.
    pub fn standard_error(&self) -> f64 {
        let n = self.tokens as f64;
        ((self.sum_of_squares / n - self.mean().powi(2)).max(0.0) / n).sqrt()
    }

    fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
        self.tokens += other.tokens;
    }
}

/// Two models on the same tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Comparison {
    pub source: Score,
    pub other: Score,
    kl_sum: f64,
    same_top: usize,
}

impl Comparison {
    /// KL(source, other) of the next token's distribution, in nats: the mean over the tokens.
    pub fn mean_kl(&self) -> f64 {
        self.kl_sum / self.source.tokens as f64
    }

    /// Share of the tokens before which both models find the same one likeliest.
    pub fn same_top(&self) -> f64 {
        self.same_top as f64 / self.source.tokens as f64
    }

    /// How much larger the other's perplexity is, as a share of the source's.
    pub fn loss(&self) -> f64 {
        self.other.perplexity() / self.source.perplexity() - 1.0
    }

    fn merge(&mut self, part: &Self) {
        self.source.merge(&part.source);
        self.other.merge(&part.other);
        self.kl_sum += part.kl_sum;
        self.same_top += part.same_top;
    }

    /// One position's logits of both, and the token that follows.
    fn add(&mut self, source: &[f32], other: &[f32], next: TokenId) {
        let (p, q) = (Softmax::of(source), Softmax::of(other));
        let next = next as usize;
        self.source.add(-p.log(source[next]));
        self.other.add(-q.log(other[next]));
        let difference = |(&a, &b): (&f32, &f32)| f64::from((a - p.max).exp()) * f64::from(a - b);
        let mean: f64 = source.iter().zip(other).map(difference).sum::<f64>() / p.sum;
        self.kl_sum += (mean - p.log_sum() + q.log_sum()).max(0.0);
        self.same_top += usize::from(p.top == q.top);
    }
}

/// What turns a row of logits into probabilities.
struct Softmax {
    max: f32,
    top: usize,
    /// Of exp(logit - max).
    sum: f64,
}

impl Softmax {
    fn of(logits: &[f32]) -> Self {
        let (top, max) = logits
            .iter()
            .enumerate()
            .fold((0, f32::NEG_INFINITY), |best, (i, &logit)| if logit > best.1 { (i, logit) } else { best });
        let sum = logits.iter().map(|&logit| f64::from((logit - max).exp())).sum();
        Self { max, top, sum }
    }

    fn log_sum(&self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }

    fn log(&self, logit: f32) -> f64 {
        f64::from(logit) - self.log_sum()
    }
}

/// Compares the models at two paths on windows of tokens, with float32 activations. `on_window` is called after each.
pub fn compare(
    [source, other]: [&Path; 2],
    windows: &[Vec<TokenId>],
    threads: Option<usize>,
    mut on_window: impl FnMut() -> Result<()>,
) -> Result<Comparison> {
    let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
    let mut models = [Evaluated::load(source, longest, threads)?, Evaluated::load(other, longest, threads)?];
    let mut total = Comparison::default();
    for window in windows {
        for first in (0..window.len() - 1).step_by(CHUNK) {
            let chunk = first..window.len().min(first + CHUNK);
            models.iter_mut().try_for_each(|model| model.compute(&window[chunk.clone()], first))?;
            let next = &window[first + 1..window.len().min(chunk.end + 1)];
            total.merge(&compare_rows(models.each_ref().map(|model| &model.out), next));
        }
        on_window()?;
    }
    Ok(total)
}

/// The rows before the tokens `next`, shared out to all cores.
fn compare_rows(outputs: [&ModelOutput; 2], next: &[TokenId]) -> Comparison {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let part = |first: usize, next: &[TokenId]| {
        let mut part = Comparison::default();
        for (i, &token) in next.iter().enumerate() {
            let [source, other] = outputs.map(|out| &out.logits[(first + i) * out.vocab_size..][..out.vocab_size]);
            part.add(source, other, token);
        }
        part
    };
    let per_thread = next.len().div_ceil(threads);
    std::thread::scope(|scope| {
        let part = &part;
        let parts = next.chunks(per_thread).enumerate();
        let running: Vec<_> = parts.map(|(i, next)| scope.spawn(move || part(i * per_thread, next))).collect();
        let mut total = Comparison::default();
        for part in running {
            total.merge(&part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        total
    })
}

/// A model that computes one sequence at a time.
struct Evaluated {
    runner: Box<dyn ModelRunner>,
    out: ModelOutput,
    num_blocks: usize,
}

impl Evaluated {
    fn load(path: &Path, longest: usize, threads: Option<usize>) -> Result<Self> {
        let config = EngineConfig {
            max_num_seqs: 1,
            // As much as a sequence is long, so that the cache has room for all of it in every group of layers.
            max_num_batched_tokens: longest.max(CHUNK),
            max_model_len: Some(longest),
            activations: Activations::F32,
            threads,
            ..EngineConfig::default()
        };
        let (runner, _) = load(path, &config)?;
        Ok(Self { runner, out: ModelOutput::default(), num_blocks: longest.div_ceil(BLOCK_SIZE) })
    }

    /// Logits after each of `tokens`, which stand at `start` in their sequence.
    fn compute(&mut self, tokens: &[TokenId], start: usize) -> Result<()> {
        let mut step = SchedulerOutput::default();
        let num_groups = self.runner.kv_geometry().groups.len();
        step.push(start, tokens, RowsWanted::All, num_groups, self.num_blocks);
        self.runner.execute(&step, &mut self.out)
    }
}
