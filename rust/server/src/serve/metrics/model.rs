//! Figures of one model's requests and of its engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ferrule_engine::metrics::{EngineStats, RequestMetrics};

use super::histogram::Histogram;
use super::text::Exposition;
use crate::serve::models::Resident;

/// Buckets are vLLM's, with finer ones below where small models live.
const TTFT: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const PER_TOKEN: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0,
];
const REQUEST: &[f64] = &[
    0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100_000.0,
];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Stop,
    Length,
    /// Its caller left, or the server stopped.
    Abort,
    Error,
}

impl End {
    const ALL: [Self; 4] = [Self::Stop, Self::Length, Self::Abort, Self::Error];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// Counters and histograms of one model, since the server's start.
#[derive(Debug)]
pub struct ModelMetrics {
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    /// By [`End::ALL`].
    ends: [AtomicU64; 4],
    time_to_first_token: Histogram,
    inter_token: Histogram,
    time_per_output_token: Histogram,
    e2e: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    inference: Histogram,
    request_prompt_tokens: Histogram,
    request_generation_tokens: Histogram,
    params_n: Histogram,
    params_max_tokens: Histogram,
}

impl Default for ModelMetrics {
    fn default() -> Self {
        Self {
            prompt_tokens: AtomicU64::default(),
            cached_tokens: AtomicU64::default(),
            generation_tokens: AtomicU64::default(),
            ends: Default::default(),
            time_to_first_token: Histogram::new(TTFT),
            inter_token: Histogram::new(PER_TOKEN),
            time_per_output_token: Histogram::new(PER_TOKEN),
            e2e: Histogram::new(REQUEST),
            queue: Histogram::new(REQUEST),
            prefill: Histogram::new(REQUEST),
            decode: Histogram::new(REQUEST),
            inference: Histogram::new(REQUEST),
            request_prompt_tokens: Histogram::new(TOKENS),
            request_generation_tokens: Histogram::new(TOKENS),
            params_n: Histogram::new(CHOICES),
            params_max_tokens: Histogram::new(TOKENS),
        }
    }
}

impl ModelMetrics {
    /// A request came in. `max_tokens`: what its length allows at most.
    pub fn begin(&self, n: usize, max_tokens: usize) {
        self.params_n.observe(n as f64);
        self.params_max_tokens.observe(max_tokens as f64);
    }

    /// The first token, counted from the request's arrival at the server.
    pub fn first_token(&self, since_arrival: Duration) {
        self.generation_tokens.fetch_add(1, Ordering::Relaxed);
        self.time_to_first_token.observe(since_arrival.as_secs_f64());
    }

    /// A token `gap` after the one before it. None: the first of another choice.
    pub fn next_token(&self, gap: Option<Duration>) {
        self.generation_tokens.fetch_add(1, Ordering::Relaxed);
        if let Some(gap) = gap {
            self.inter_token.observe(gap.as_secs_f64());
        }
    }

    /// A request was answered.
    pub fn done(&self, metrics: &RequestMetrics, e2e: Duration) {
        self.prompt_tokens.fetch_add(metrics.num_prompt_tokens as u64, Ordering::Relaxed);
        self.cached_tokens.fetch_add(metrics.num_cached_tokens as u64, Ordering::Relaxed);
        self.request_prompt_tokens.observe(metrics.num_prompt_tokens as f64);
        self.request_generation_tokens.observe(metrics.num_generated_tokens as f64);
        self.e2e.observe(e2e.as_secs_f64());
        self.queue.observe(metrics.queue_time.as_secs_f64());
        let prefill = metrics.prefill_time.unwrap_or_default();
        self.prefill.observe(prefill.as_secs_f64());
        self.decode.observe(metrics.decode_time.as_secs_f64());
        self.inference.observe((prefill + metrics.decode_time).as_secs_f64());
        if let Some(rate) = metrics.decode_tokens_per_s() {
            self.time_per_output_token.observe(1.0 / rate);
        }
    }

    /// Once per choice that ended, or once for a request that did not end well.
    pub fn end(&self, end: End) {
        self.ends[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn histograms(&self) -> [(&'static str, &'static str, &Histogram); 12] {
        [
            ("time_to_first_token_seconds", "From arrival to the first token.", &self.time_to_first_token),
            ("inter_token_latency_seconds", "Between two tokens of a choice.", &self.inter_token),
            ("request_time_per_output_token_seconds", "Mean time per token.", &self.time_per_output_token),
            ("e2e_request_latency_seconds", "From arrival to the end.", &self.e2e),
            ("request_queue_time_seconds", "Waiting for the first step.", &self.queue),
            ("request_prefill_time_seconds", "From the first step to the first token.", &self.prefill),
            ("request_decode_time_seconds", "From the first token to the last.", &self.decode),
            ("request_inference_time_seconds", "From the first step to the last token.", &self.inference),
            ("request_prompt_tokens", "Prompt tokens.", &self.request_prompt_tokens),
            ("request_generation_tokens", "Generated tokens.", &self.request_generation_tokens),
            ("request_params_n", "Choices asked for.", &self.params_n),
            ("request_params_max_tokens", "Most tokens that a request allowed.", &self.params_max_tokens),
        ]
    }

    fn counters(&self) -> [(&'static str, &'static str, &AtomicU64); 3] {
        [
            ("prompt_tokens_total", "Prompt tokens of answered requests.", &self.prompt_tokens),
            ("prompt_tokens_cached_total", "Of these, found in the prefix cache.", &self.cached_tokens),
            ("generation_tokens_total", "Tokens generated.", &self.generation_tokens),
        ]
    }
}

/// Whose figures they are.
fn labels(model: &str) -> [(&'static str, &str); 2] {
    [("engine", "0"), ("model_name", model)]
}

pub(super) fn render_requests(models: &BTreeMap<String, Arc<ModelMetrics>>, out: &mut Exposition) {
    let any = ModelMetrics::default();
    for (i, (name, help, _)) in any.counters().into_iter().enumerate() {
        let name = format!("vllm:{name}");
        out.head(&name, "counter", help);
        for (model, metrics) in models {
            out.sample(&name, &labels(model), metrics.counters()[i].2.load(Ordering::Relaxed));
        }
    }
    out.head("vllm:request_success_total", "counter", "Requests that ended, by how.");
    for (model, metrics) in models {
        for end in End::ALL {
            let [engine, model] = labels(model);
            let count = metrics.ends[end as usize].load(Ordering::Relaxed);
            out.sample("vllm:request_success_total", &[engine, ("finished_reason", end.as_str()), model], count);
        }
    }
    for (i, (name, help, _)) in any.histograms().into_iter().enumerate() {
        let name = format!("vllm:{name}");
        out.head(&name, "histogram", help);
        for (model, metrics) in models {
            out.histogram(&name, &labels(model), metrics.histograms()[i].2);
        }
    }
}

/// (name, kind, help, value)
type EngineFigure = (&'static str, &'static str, &'static str, fn(&EngineStats) -> f64);

const ENGINE_FIGURES: &[EngineFigure] = &[
    ("num_requests_running", "gauge", "Sequences in the running batch.", |s| s.num_running as f64),
    ("num_requests_waiting", "gauge", "Requests that wait to run.", |s| s.num_waiting as f64),
    ("kv_cache_usage_perc", "gauge", "Share of KV blocks in use, 0 to 1.", |s| {
        s.num_used_blocks as f64 / s.num_blocks.max(1) as f64
    }),
    ("num_preemptions_total", "counter", "Sequences that gave way to others.", |s| s.num_preemptions as f64),
    ("prefix_cache_queries_total", "counter", "Tokens looked up in the prefix cache.", |s| {
        s.prefix_cache_queries as f64
    }),
    ("prefix_cache_hits_total", "counter", "Tokens found in the prefix cache.", |s| s.prefix_cache_hits as f64),
];

pub(super) fn render_engines(residents: &[Resident], out: &mut Exposition) {
    let stats: Vec<_> = residents.iter().map(|resident| resident.model.engine.stats()).collect();
    for (name, kind, help, value) in ENGINE_FIGURES {
        let name = format!("vllm:{name}");
        out.head(&name, kind, help);
        for (resident, stats) in residents.iter().zip(&stats) {
            out.sample(&name, &labels(&resident.model.served.name), value(stats));
        }
    }
    out.head("vllm:cache_config_info", "gauge", "How the KV cache is laid out.");
    for resident in residents {
        let (config, info) = (resident.model.engine.config(), resident.model.engine.model());
        let (block_size, dtype) = (config.block_size.to_string(), config.kv_dtype().to_string());
        let tokens = info.kv_cache_tokens.to_string();
        let [engine, model] = labels(&resident.model.served.name);
        let layout = [("block_size", block_size.as_str()), ("cache_dtype", &dtype), ("num_tokens", &tokens)];
        out.sample("vllm:cache_config_info", &[&[engine, model][..], &layout].concat(), 1);
    }
}
