//! A model on disk becomes a runner with everything around it.

use std::path::Path;
use std::sync::Arc;

use crate::backend::cpu::KvMemory;
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::info::ModelInfo;
use crate::kernels::Kernels;
use crate::kernels::threads::Pool;
use crate::memory::{available_bytes, plan_kv};
use crate::model::{self, Source};
use crate::runner::{CpuParts, CpuRunner, ModelRunner, load_weights, num_bytes};
use crate::text::{ChatTemplate, Tokenizer};
use crate::weights::Gguf;

/// Opens a `.gguf` file or a Hugging Face folder, checks that it fits, and packs its weights.
pub(crate) fn load(path: &Path, config: &EngineConfig) -> Result<(Box<dyn ModelRunner>, ModelInfo)> {
    config.validate()?;
    let kernels = Kernels::new(config.isa()?)?;
    let source = model::open(path)?;
    let kv = plan_kv(&source.config, config, weight_bytes(&source), available_bytes())?;
    let pool = Pool::new(config.threads.unwrap_or_else(Pool::default_threads));

    let (text, weights) = std::thread::scope(|scope| {
        let text = scope.spawn(|| load_text(path));
        let weights = load_weights(&source, &pool);
        (text.join(), weights)
    });
    let (tokenizer, chat_template) = text.map_err(|_| Error::Internal("the tokenizer's loader panicked".into()))??;
    let weights = weights?;

    let info = ModelInfo {
        config: Some(source.config.clone()),
        vocab_size: source.config.vocab_size,
        tokenizer: tokenizer.map(Arc::new),
        chat_template,
        max_model_len: kv.max_model_len,
        weight_bytes: num_bytes(&weights),
        kv_cache_bytes: kv.bytes,
        kv_cache_tokens: kv.num_tokens,
        backend: format!("cpu {}, {} threads, {} activations", kernels.isa(), pool.num_lanes(), config.activations),
    };
    let runner = CpuRunner::new(CpuParts {
        config: source.config,
        weights,
        kernels,
        pool,
        kv: KvMemory::new(kv.geometry, kv.shape)?,
        max_tokens: config.max_num_batched_tokens,
        activations: config.activations,
        profile: config.profile.clone(),
    });
    Ok((Box::new(runner), info))
}

/// What the tensors take in their file, which packing keeps to within a few percent.
pub fn weight_bytes(source: &Source) -> u64 {
    let checkpoint = &source.checkpoint;
    checkpoint.tensor_names().iter().filter_map(|name| checkpoint.find(name)).map(|view| view.bytes.len() as u64).sum()
}

/// A folder without a tokenizer serves callers that bring token ids.
fn load_text(path: &Path) -> Result<(Option<Tokenizer>, Option<ChatTemplate>)> {
    if path.is_dir() {
        let tokenizer = path.join("tokenizer.json").exists().then(|| Tokenizer::from_dir(path)).transpose()?;
        return Ok((tokenizer, ChatTemplate::from_dir(path)?));
    }
    let gguf = Gguf::open(path)?;
    Ok((Some(Tokenizer::from_gguf(&gguf)?), ChatTemplate::from_gguf(&gguf)?))
}
