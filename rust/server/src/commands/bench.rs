//! `ferrule bench`

use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use clap::Args;
use ferrule_engine::info::ModelInfo;
use ferrule_engine::null::{NullConfig, NullModel};
use ferrule_engine::runner::ModelRunner;
use ferrule_engine::{EngineConfig, EngineHandle, Event, GenerateRequest, Prompt, SamplingParams, TokenId};
use serde_json::{Value, json};

use crate::engine_args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::machine::{Machine, peak_rss_bytes};
use crate::units::{bytes, three_digits};
use crate::{print, progress};

/// Prompts are random tokens from a fixed seed; the prefix cache is off and end-of-text is ignored. Prompt speed is
/// all prompt tokens over the time until every request has its first token; generation speed is the tokens after
/// that moment over the time they took. Figures are medians over the repetitions.
#[derive(Debug, Args)]
pub struct Bench {
    /// A .gguf file, a Hugging Face folder, a name such as smollm2, or null (the engine without a model)
    model: String,
    /// Tokens per prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_len: u32,
    /// Tokens to generate per request
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    gen_len: u32,
    /// Requests at once, one result each
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 4, 16],
        value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Vec<u32>,
    /// Measurements per batch size
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// One measurement of one batch.
#[derive(Debug)]
struct Sample {
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    total_tokens_per_s: f64,
    /// Median over the requests.
    ttft_ms: f64,
}

struct BatchResult {
    batch: u32,
    samples: Vec<Sample>,
    peak_rss: Option<u64>,
}

impl Bench {
    pub fn execute(self) -> Result {
        let engine = self.start()?;
        let bar = progress::steps("measuring", (self.batch.len() as u32 * self.repetitions) as u64);
        let interrupt = Interrupt::watch();
        self.measure(&engine, self.batch[0], 0)?;
        let mut results = Vec::new();
        for &batch in &self.batch {
            let mut samples = Vec::new();
            for repetition in 0..self.repetitions {
                samples.push(self.measure(&engine, batch, repetition)?);
                bar.inc(1);
                if interrupt.is_pending() {
                    return Err(Failure::interrupted());
                }
            }
            results.push(BatchResult { batch, samples, peak_rss: peak_rss_bytes() });
        }
        bar.finish_and_clear();
        self.report(&engine, &results)
    }

    fn start(&self) -> Result<EngineHandle> {
        let largest = self.batch.iter().copied().max().unwrap_or(1) as usize;
        let config = EngineConfig {
            max_num_seqs: largest,
            max_queue_len: largest.max(EngineConfig::default().max_queue_len),
            enable_prefix_caching: false,
            ..self.engine.config()
        };
        config.validate()?;
        match self.model.as_str() {
            "null" => self.null_engine(config, largest),
            model => Ok(EngineHandle::load(&super::locate(model)?, config)?),
        }
    }

    /// Measures the engine's own cost: the null model takes no time.
    fn null_engine(&self, config: EngineConfig, largest: usize) -> Result<EngineHandle> {
        let len = (self.prompt_len + self.gen_len) as usize;
        let blocks_per_sequence = len.div_ceil(config.block_size) + 1;
        let null = NullConfig { num_blocks: largest * blocks_per_sequence, ..NullConfig::default() };
        let runner = NullModel::new(null.clone());
        let info = ModelInfo {
            config: None,
            tokenizer: None,
            chat_template: None,
            vocab_size: runner.vocab_size(),
            max_model_len: len,
            weight_bytes: 0,
            kv_cache_bytes: 0,
            kv_cache_tokens: null.num_blocks * null.block_size,
            backend: "null".into(),
        };
        Ok(EngineHandle::with_runner(Box::new(runner), info, config)?)
    }

    fn measure(&self, engine: &EngineHandle, batch: u32, repetition: u32) -> Result<Sample> {
        let (sender, events) = mpsc::channel();
        let start = Instant::now();
        for request in 0..batch {
            let seed = u64::from(repetition) << 32 | u64::from(request);
            let prompt = random_tokens(seed, self.prompt_len as usize, engine.model().vocab_size);
            let params = SamplingParams { ignore_eos: true, ..SamplingParams::greedy(self.gen_len as usize) };
            let sender = sender.clone();
            engine.submit(GenerateRequest::new(Prompt::Tokens(prompt), params), move |event| {
                match sender.send((request, start.elapsed(), event)) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            })?;
        }
        drop(sender);
        let mut arrivals = Vec::new();
        for (request, at, event) in events {
            match event {
                Event::Delta(delta) => arrivals.extend(delta.token_ids.iter().map(|_| (request, at))),
                Event::Error(err) => return Err(err.into()),
                _ => {}
            }
        }
        Sample::new(&arrivals, batch, self.prompt_len)
    }

    fn report(&self, engine: &EngineHandle, results: &[BatchResult]) -> Result {
        let machine = Machine::look();
        let info = engine.model();
        if !self.json {
            print::note(&format!("{}, {}", machine.cpu, info.backend));
            let rows: Vec<_> = results.iter().map(|result| result.row(info)).collect();
            let header =
                ["BATCH", "PROMPT TOK/S", "GENERATION TOK/S", "TOTAL TOK/S", "TTFT MS", "WEIGHTS GB/S", "PEAK RSS"];
            return print::table(&header, &[0, 1, 2, 3, 4, 5, 6], &rows);
        }
        print::json(&json!({
            "machine": machine.json(),
            "model": {
                "name": self.model,
                "weight_bytes": info.weight_bytes,
                "kv_cache_bytes": info.kv_cache_bytes,
                "backend": info.backend,
            },
            "repetitions": self.repetitions,
            "results": results.iter().map(|result| result.json(self, info)).collect::<Vec<_>>(),
        }))
    }
}

impl Sample {
    /// `arrivals`: request and time of each token, in order of time.
    fn new(arrivals: &[(u32, Duration)], batch: u32, prompt_len: u32) -> Result<Self> {
        let mut firsts = vec![None; batch as usize];
        for &(request, at) in arrivals {
            firsts[request as usize].get_or_insert(at);
        }
        let firsts: Option<Vec<Duration>> = firsts.into_iter().collect();
        let firsts = firsts.ok_or_else(|| Failure::internal("a request ended without a token"))?;
        let all_started = firsts.iter().copied().max().unwrap_or_default();
        let end = arrivals.iter().map(|&(_, at)| at).max().unwrap_or_default();
        let decoded = arrivals.iter().filter(|&&(_, at)| at > all_started).count();
        let prompt_tokens = f64::from(batch) * f64::from(prompt_len);
        Ok(Self {
            prefill_tokens_per_s: rate(prompt_tokens, all_started),
            decode_tokens_per_s: rate(decoded as f64, end - all_started),
            total_tokens_per_s: rate(prompt_tokens + arrivals.len() as f64, end),
            ttft_ms: median(firsts.iter().map(|first| first.as_secs_f64() * 1e3)),
        })
    }
}

/// 0 where there was nothing to measure: one token has no generation speed.
fn rate(count: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

impl BatchResult {
    fn median(&self, of: fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of))
    }

    fn spread(&self, of: fn(&Sample) -> f64) -> Value {
        let values = || self.samples.iter().map(of);
        json!([values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max)])
    }

    /// Bytes per second of weights: each step of the whole batch reads them once.
    fn weights_per_s(&self, info: &ModelInfo) -> f64 {
        self.median(|sample| sample.decode_tokens_per_s) / f64::from(self.batch) * info.weight_bytes as f64
    }

    fn json(&self, bench: &Bench, info: &ModelInfo) -> Value {
        json!({
            "batch": self.batch,
            "prompt_len": bench.prompt_len,
            "gen_len": bench.gen_len,
            "prefill_tokens_per_s": self.median(|sample| sample.prefill_tokens_per_s),
            "decode_tokens_per_s": self.median(|sample| sample.decode_tokens_per_s),
            "total_tokens_per_s": self.median(|sample| sample.total_tokens_per_s),
            "ttft_ms": self.median(|sample| sample.ttft_ms),
            "weights_bytes_per_s": self.weights_per_s(info),
            "peak_rss_bytes": self.peak_rss,
            "spread": {
                "prefill_tokens_per_s": self.spread(|sample| sample.prefill_tokens_per_s),
                "decode_tokens_per_s": self.spread(|sample| sample.decode_tokens_per_s),
                "total_tokens_per_s": self.spread(|sample| sample.total_tokens_per_s),
                "ttft_ms": self.spread(|sample| sample.ttft_ms),
            },
        })
    }

    fn row(&self, info: &ModelInfo) -> Vec<String> {
        vec![
            self.batch.to_string(),
            three_digits(self.median(|sample| sample.prefill_tokens_per_s)),
            three_digits(self.median(|sample| sample.decode_tokens_per_s)),
            three_digits(self.median(|sample| sample.total_tokens_per_s)),
            three_digits(self.median(|sample| sample.ttft_ms)),
            three_digits(self.weights_per_s(info) / 1e9),
            self.peak_rss.map_or("?".into(), bytes),
        ]
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014), the same on every machine.
fn random_tokens(seed: u64, count: usize, vocab_size: usize) -> Vec<TokenId> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    };
    (0..count).map(|_| (next() % vocab_size as u64) as TokenId).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_follow_from_arrivals() {
        let ms = Duration::from_millis;
        let arrivals = [(0, ms(100)), (0, ms(150)), (1, ms(200)), (0, ms(300)), (1, ms(400))];
        let sample = Sample::new(&arrivals, 2, 10).unwrap();
        assert!((sample.prefill_tokens_per_s - 100.0).abs() < 1e-9);
        assert!((sample.decode_tokens_per_s - 10.0).abs() < 1e-9);
        assert!((sample.total_tokens_per_s - 62.5).abs() < 1e-9);
        assert!((sample.ttft_ms - 150.0).abs() < 1e-9);
        assert!(Sample::new(&arrivals[..2], 2, 10).is_err());
    }
}
