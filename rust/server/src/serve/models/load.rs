//! From a model's files to a running engine, within what it may take.

use std::sync::Arc;
use std::time::Instant;

use ferrule_engine::{EngineConfig, EngineHandle, Error};
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

use super::catalog::{Served, Source};
use super::null;
use super::slot::LoadedModel;
use crate::facts::Facts;
use crate::serve::metrics::ModelMetrics;

/// Under a budget, a model whose KV cache has no size of its own gets as much as its weights, but at least this.
const LEAST_KV_BYTES: u64 = 256 << 20;

/// Bytes that a model will take: weights and KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub weight_bytes: u64,
    pub kv_bytes: u64,
}

impl Need {
    pub fn total(self) -> u64 {
        self.weight_bytes + self.kv_bytes
    }
}

/// What `served` needs under a budget.
pub fn need(served: &Served, config: &EngineConfig) -> Result<Need, Error> {
    let weight_bytes = match &served.source {
        Source::Null(_) => 0,
        Source::Files(path) => Facts::open_as(path, config.quantization)?.weight_bytes(),
    };
    let kv_bytes = match (&served.source, config.kv_cache_memory) {
        (Source::Null(_), _) => 0,
        (_, Some(asked)) => asked,
        (_, None) => weight_bytes.max(LEAST_KV_BYTES),
    };
    Ok(Need { weight_bytes, kv_bytes })
}

/// Loads on this thread. `need`: what was reserved for it, if there is a budget.
pub fn load(
    served: &Served,
    config: &EngineConfig,
    need: Option<Need>,
    metrics: Arc<ModelMetrics>,
) -> Result<LoadedModel, Error> {
    let began = Instant::now();
    let config =
        EngineConfig { kv_cache_memory: need.map(|need| need.kv_bytes).or(config.kv_cache_memory), ..config.clone() };
    let engine = match &served.source {
        Source::Null(step_time) => null::engine(config, *step_time)?,
        Source::Files(path) => EngineHandle::load(path, config)?,
    };
    let info = engine.model();
    Ok(LoadedModel {
        served: served.clone(),
        fingerprint: fingerprint(served, &engine),
        bytes: info.weight_bytes + info.kv_cache_bytes,
        load_time: began.elapsed(),
        long_texts: Arc::new(Semaphore::new(1)),
        engine,
        metrics,
    })
}

/// Changes with everything that may change an answer: equal requests under equal fingerprints have equal answers.
fn fingerprint(served: &Served, engine: &EngineHandle) -> String {
    let (info, config) = (engine.model(), engine.config());
    let facts = format!(
        "{} {} {} {} {} {} {} {}",
        env!("CARGO_PKG_VERSION"),
        served.name,
        info.weight_bytes,
        info.vocab_size,
        info.max_model_len,
        info.backend.split(',').next().unwrap_or_default(),
        config.activations,
        config.kv_dtype(),
    );
    let digest = Sha256::digest(facts);
    format!("fp_{:02x}{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3], digest[4])
}
