//! Continuous against static batching: 16 concurrent requests of mixed output lengths, through the whole
//! engine, on the null model as a device where reading the weights dominates a step, as on a GPU, or on a
//! real model by the store's name for it.
//!
//! `cargo bench --workspace --bench batching [-- MODEL]`

use std::path::Path;
use std::time::{Duration, Instant};

use ferrule_engine::config::Policy;
use ferrule_engine::info::ModelInfo;
use ferrule_engine::null::{NullConfig, NullCost, NullModel};
use ferrule_engine::{EngineConfig, EngineHandle, GenerateRequest, Prompt, Result, SamplingParams};

const CONCURRENT: usize = 16;
const NUM_REQUESTS: u32 = 192;
const COST: NullCost = NullCost {
    fixed: Duration::from_micros(400),
    per_token: Duration::from_micros(2),
    per_context_token: Duration::from_nanos(5),
};

struct Run {
    seconds: f64,
    num_tokens: u64,
    num_steps: u64,
}

impl Run {
    fn tokens_per_s(&self) -> f64 {
        self.num_tokens as f64 / self.seconds
    }
}

fn engine(policy: Policy, model: Option<&Path>) -> Result<EngineHandle> {
    let config = EngineConfig { max_num_seqs: CONCURRENT, policy, ..EngineConfig::default() };
    if let Some(model) = model {
        return EngineHandle::load(model, config);
    }
    let model = NullConfig { num_blocks: 4096, cost: Some(COST), ..NullConfig::default() };
    let info = ModelInfo {
        config: None,
        tokenizer: None,
        chat_template: None,
        vocab_size: model.vocab_size,
        max_model_len: 4096,
        weight_bytes: 0,
        kv_cache_bytes: 0,
        kv_cache_tokens: model.num_blocks * model.block_size,
        backend: "null".into(),
    };
    EngineHandle::with_runner(Box::new(NullModel::new(model)), info, config)
}

fn request(i: u32, prompt_len: u32, max_tokens: usize) -> GenerateRequest {
    let prompt = (0..prompt_len).map(|j| (i + j * j) % 64).collect();
    let params = SamplingParams { ignore_eos: true, ..SamplingParams::greedy(max_tokens) };
    GenerateRequest::new(Prompt::Tokens(prompt), params)
}

/// Output lengths from 8 to 512, even on a log scale: many short answers and a few long ones.
fn workload() -> Vec<GenerateRequest> {
    let fraction = |i: u32| f64::from(i * 73 % NUM_REQUESTS) / f64::from(NUM_REQUESTS - 1);
    (0..NUM_REQUESTS).map(|i| request(i, 16 + i % 48, (8.0 * 64f64.powf(fraction(i))) as usize)).collect()
}

fn run(policy: Policy, model: Option<&Path>) -> Result<Run> {
    let engine = engine(policy, model)?;
    // It occupies the engine while the others queue up, so that the first static batch is a full one.
    let plug = engine.stream(request(0, 1, 20))?;
    let start = Instant::now();
    engine.generate_all(workload())?;
    let seconds = start.elapsed().as_secs_f64();
    drop(plug);
    let stats = engine.stats();
    Ok(Run { seconds, num_tokens: stats.num_generated_tokens, num_steps: stats.num_steps })
}

fn main() -> Result<()> {
    let name = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let model = name.as_deref().map(|name| {
        let store = ferrule_store::Store::open_default().expect("the model store opens");
        store.locate(name, &mut ferrule_store::Silent).unwrap_or_else(|err| panic!("{name}: {err}"))
    });
    let device = name.unwrap_or_else(|| format!("null model, {COST:?}"));
    println!("{NUM_REQUESTS} requests, {CONCURRENT} at once, {device}");
    let policies = [Policy::Static, Policy::Continuous];
    let mut rates = Vec::new();
    for policy in policies {
        let run = run(policy, model.as_deref())?;
        println!(
            "{policy:>10}: {:6.0} tokens/s, {} tokens in {:.2} s and {} steps",
            run.tokens_per_s(),
            run.num_tokens,
            run.seconds,
            run.num_steps
        );
        rates.push(run.tokens_per_s());
    }
    println!("continuous / static = {:.2}", rates[1] / rates[0]);
    Ok(())
}
