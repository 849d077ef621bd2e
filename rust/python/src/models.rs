//! From what a caller names to a running engine.

use std::path::Path;

use ferrule_engine::info::ModelInfo;
use ferrule_engine::null::{NullConfig, NullModel};
use ferrule_engine::{EngineConfig, EngineHandle, Result};
use ferrule_server::progress::Downloads;
use ferrule_store::Store;
use pyo3::prelude::*;

use crate::errors::{Raise, invalid_request};

/// Room for a million tokens.
const NULL_KV_BYTES: u64 = 8 << 20;

pub fn load(model: &Path, config: EngineConfig) -> PyResult<EngineHandle> {
    if model == Path::new("null") {
        return null(config).raise();
    }
    let name = model.to_str().ok_or_else(|| invalid_request("a model's name must be UTF-8"))?;
    let path = Store::open_default().raise()?.locate(name, &mut Downloads::default()).raise()?;
    EngineHandle::load(&path, config).raise()
}

/// A model without weights: its tokens follow from a hash of the prefix, 8 bytes each.
fn null(config: EngineConfig) -> Result<EngineHandle> {
    let kv_cache_bytes = config.kv_cache_memory.unwrap_or(NULL_KV_BYTES);
    let num_blocks = (kv_cache_bytes / 8) as usize / config.block_size;
    let model = NullConfig { num_blocks, block_size: config.block_size, ..NullConfig::default() };
    let kv_cache_tokens = model.num_blocks * model.block_size;
    let info = ModelInfo {
        config: None,
        tokenizer: None,
        chat_template: None,
        vocab_size: model.vocab_size,
        max_model_len: config.max_model_len.unwrap_or(kv_cache_tokens),
        weight_bytes: 0,
        kv_cache_bytes,
        kv_cache_tokens,
        backend: "null".into(),
    };
    EngineHandle::with_runner(Box::new(NullModel::new(model)), info, config)
}
