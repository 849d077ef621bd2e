//! `ferrule bench`

mod limits;
mod profile;
mod result;
mod sample;

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use clap::Args;
use ferrule_engine::info::ModelInfo;
use ferrule_engine::null::{NullConfig, NullModel};
use ferrule_engine::profile::{Phase, PhaseTotals, Profile};
use ferrule_engine::runner::ModelRunner;
use ferrule_engine::{EngineConfig, EngineHandle, Event, GenerateRequest, Prompt, SamplingParams, TokenId};
use serde_json::json;

use limits::{Ceilings, Workload};
use profile::PROFILE_HEADER;
use result::{BatchResult, HEADER};
use sample::Sample;

use crate::engine_args::EngineArgs;
use crate::facts::Facts;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;
use crate::machine::{Machine, peak_rss_bytes, restart_peak_rss};
use crate::{print, progress};

/// Prompts are random tokens from a fixed seed; the prefix cache is off (but for `--shared-prefix`) and end-of-text is
/// ignored. Prompt speed is all prompt tokens over the time until every request has its first token; generation speed is
/// the tokens after that moment over the time they took. Figures are medians over the repetitions. GOPS count a product
/// and its addition as two, attention included; GB/s count the weights once per step, and every sequence's keys and values.
/// Limits are measured before and after.
#[derive(Debug, Args)]
pub struct Bench {
    /// A .gguf file, a Hugging Face folder, a name such as smollm2, or null (the engine without a model)
    model: String,
    /// Tokens per prompt: the context that generation starts from
    #[arg(long, visible_alias = "context", value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    prompt_len: u32,
    /// Tokens that all prompts begin with: computed once, and found in the prefix cache. Prompt speed leaves them out
    #[arg(long, value_name = "N", default_value_t = 0)]
    shared_prefix: u32,
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
    /// Time every operation: a table per batch size
    #[arg(long)]
    profile: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

impl Bench {
    pub fn execute(self) -> Result {
        let Self { shared_prefix, prompt_len, .. } = self;
        if shared_prefix >= prompt_len {
            return Err(Failure::usage(format!(
                "--shared-prefix is {shared_prefix}: it must be less than --prompt-len, which is {prompt_len}"
            )));
        }
        let (engine, weight_bytes) = self.start()?;
        let bar = progress::steps("measuring", (self.batch.len() as u32 * self.repetitions) as u64);
        let interrupt = Interrupt::watch();
        let loading_peak = peak_rss_bytes();
        let ceilings = Ceilings::measure(&engine)?;
        restart_peak_rss();
        self.warm_up(&engine)?;
        let mut results = Vec::new();
        for &batch in &self.batch {
            let mut samples = Vec::new();
            Self::take_profile(&engine);
            for repetition in 0..self.repetitions {
                samples.push(self.measure(&engine, batch, repetition)?);
                bar.inc(1);
                if interrupt.is_pending() {
                    return Err(Failure::interrupted());
                }
            }
            let workload = self.workload(&engine, weight_bytes, batch);
            let peak_rss = loading_peak.max(peak_rss_bytes());
            results.push(BatchResult::new(workload, samples, peak_rss, Self::take_profile(&engine)));
        }
        bar.finish_and_clear();
        self.report(&engine, &results, &ceilings.or(Ceilings::measure(&engine)?))
    }

    /// The engine, and the bytes of weights that a step reads.
    fn start(&self) -> Result<(EngineHandle, u64)> {
        let largest = self.batch.iter().copied().max().unwrap_or(1) as usize;
        let config = EngineConfig {
            max_num_seqs: largest,
            max_queue_len: largest.max(EngineConfig::default().max_queue_len),
            enable_prefix_caching: self.shared_prefix > 0,
            profile: self.profile.then(Arc::<Profile>::default),
            ..self.engine.config()
        };
        config.validate()?;
        if self.model == "null" {
            return Ok((self.null_engine(config, largest)?, 0));
        }
        let path = super::locate(&self.model)?;
        let facts = Facts::open_as(&path, config.quantization)?;
        let engine = EngineHandle::load(&path, config)?;
        let weight_bytes = engine.model().weight_bytes.saturating_sub(facts.lookup_bytes);
        Ok((engine, weight_bytes))
    }

    /// What was counted since the last call.
    fn take_profile(engine: &EngineHandle) -> Vec<(Phase, PhaseTotals)> {
        let taken = engine.config().profile.as_ref().map(|profile| profile.take().to_vec());
        taken.unwrap_or_default().into_iter().filter(|(_, totals)| totals.num_steps > 0).collect()
    }

    fn workload<'a>(&self, engine: &'a EngineHandle, weight_bytes: u64, batch: u32) -> Workload<'a> {
        Workload {
            config: engine.model().config.as_ref(),
            weight_bytes,
            kv_dtype: engine.config().kv_dtype(),
            batch: batch as usize,
            prompt_len: self.prompt_len as usize,
            gen_len: self.gen_len as usize,
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

    /// Touches weights and buffers.
    fn warm_up(&self, engine: &EngineHandle) -> Result {
        let prompt_len = self.prompt_len.min(self.shared_prefix.max(511) + 1);
        let short = Load { batch: self.batch[0], prompt_len, gen_len: self.gen_len.min(4), ..self.load() };
        short.run(engine, u32::MAX).map(drop)
    }

    fn measure(&self, engine: &EngineHandle, batch: u32, repetition: u32) -> Result<Sample> {
        Load { batch, ..self.load() }.run(engine, repetition)
    }

    fn load(&self) -> Load {
        let Self { prompt_len, shared_prefix, gen_len, .. } = *self;
        Load { batch: 1, prompt_len, shared_prefix, gen_len }
    }

    fn print_profile(result: &BatchResult<'_>, ceilings: &Ceilings) -> Result {
        let rows = result.profile_rows(ceilings);
        if rows.is_empty() {
            return Ok(());
        }
        print::line("")?;
        print::table(&PROFILE_HEADER, &[0, 3, 4, 5, 6, 7, 8, 9], &rows)
    }

    fn report(&self, engine: &EngineHandle, results: &[BatchResult<'_>], ceilings: &Ceilings) -> Result {
        let (machine, info) = (Machine::look(), engine.model());
        if !self.json {
            print::note(&format!("{}, {}\n{}", machine.cpu, info.backend, ceilings.line()));
            let rows: Vec<_> = results.iter().map(|result| result.row(ceilings)).collect();
            print::table(&HEADER, &std::array::from_fn::<_, { HEADER.len() }, _>(|i| i), &rows)?;
            return results.iter().try_for_each(|result| Self::print_profile(result, ceilings));
        }
        print::json(&json!({
            "machine": machine.json(),
            "limits": ceilings.json(),
            "model": {
                "name": self.model,
                "weight_bytes": info.weight_bytes,
                "kv_cache_bytes": info.kv_cache_bytes,
                "backend": info.backend,
            },
            "repetitions": self.repetitions,
            "results": results.iter().map(|result| result.json(ceilings)).collect::<Vec<_>>(),
        }))
    }
}

/// Equal requests at once.
struct Load {
    batch: u32,
    prompt_len: u32,
    shared_prefix: u32,
    gen_len: u32,
}

impl Load {
    fn run(self, engine: &EngineHandle, repetition: u32) -> Result<Sample> {
        let vocab_size = engine.model().vocab_size;
        let prefix = random_tokens(u64::MAX, self.shared_prefix as usize, vocab_size);
        let (sender, events) = mpsc::channel();
        let start = Instant::now();
        for request in 0..self.batch {
            let seed = u64::from(repetition) << 32 | u64::from(request);
            let mut prompt = random_tokens(seed, self.prompt_len as usize, vocab_size);
            prompt[..self.shared_prefix as usize].copy_from_slice(&prefix);
            let params = SamplingParams { ignore_eos: true, ..SamplingParams::greedy(self.gen_len as usize) };
            let sender = sender.clone();
            let mut arrivals = Vec::with_capacity(self.gen_len as usize);
            engine.submit(GenerateRequest::new(Prompt::Tokens(prompt), params), move |event| {
                let end = match event {
                    // Nobody is woken for a token: that would take a core from a lane.
                    Event::Delta(delta) => {
                        arrivals.extend(delta.token_ids.iter().map(|_| (request, start.elapsed())));
                        return ControlFlow::Continue(());
                    }
                    Event::Error(err) => Err(err),
                    Event::Done(_) => Ok(std::mem::take(&mut arrivals)),
                    _ => return ControlFlow::Continue(()),
                };
                sender.send(end).map_or(ControlFlow::Break(()), ControlFlow::Continue)
            })?;
        }
        drop(sender);
        let mut arrivals = Vec::new();
        for end in events {
            arrivals.extend(end?);
        }
        Sample::new(&arrivals, self.batch, self.prompt_len - self.shared_prefix)
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
