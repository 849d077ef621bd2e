//! A model on disk becomes a runner with everything around it.

use std::path::Path;
use std::sync::Arc;

use crate::backend::cpu::KvMemory;
use crate::config::{Device, EngineConfig};
use crate::cuda;
use crate::error::{Error, Result};
use crate::info::ModelInfo;
use crate::kernels::Kernels;
use crate::kernels::threads::Pool;
use crate::kernels::threads::distance::Distance;
use crate::memory::{KvPlan, available_bytes, human, plan_kv};
use crate::model::{self, Source};
use crate::runner::{CpuParts, CpuRunner, CpuWeights, LoadedWeights, ModelRunner, load_weights, num_bytes};
use crate::text::{ChatTemplate, Tokenizer};
use crate::weights::Checkpoint;
use crate::weights::packed::{PackedCache, PendingWrite, SourceStamp};

/// A model that is ready to compute, without its texts.
pub(crate) struct LoadedModel {
    pub runner: Box<dyn ModelRunner>,
    pub kv: KvPlan,
    pub weight_bytes: u64,
    /// What computes it, for people.
    pub backend: String,
}

/// Opens a `.gguf` file or a Hugging Face folder, checks that it fits, and brings its weights to the device.
pub(crate) fn load(path: &Path, config: &EngineConfig) -> Result<(Box<dyn ModelRunner>, ModelInfo)> {
    config.validate()?;
    let source = model::open_as(path, config.quantization)?;
    let (text, model) = std::thread::scope(|scope| {
        let text = scope.spawn(|| load_text(&*source.checkpoint));
        let model = match config.device {
            Device::Cpu => load_on_cpu(&source, config),
            Device::Cuda | Device::CudaEmu => cuda::load(&source, config),
        };
        (text.join(), model)
    });
    let (tokenizer, chat_template) = text.map_err(|_| Error::Internal("the tokenizer's loader panicked".into()))??;
    let LoadedModel { runner, kv, weight_bytes, backend } = model?;
    let info = ModelInfo {
        vocab_size: source.config.vocab_size,
        config: Some(source.config),
        tokenizer: tokenizer.map(Arc::new),
        chat_template,
        max_model_len: kv.max_model_len,
        weight_bytes,
        kv_cache_bytes: kv.bytes,
        kv_cache_tokens: kv.num_tokens,
        backend,
    };
    Ok((runner, info))
}

fn load_on_cpu(source: &Source, config: &EngineConfig) -> Result<LoadedModel> {
    if config.swap_space > 0 {
        let wanted = human(config.swap_space);
        return Err(Error::InvalidConfig(format!(
            "swap_space is {wanted} on the device 'cpu', whose KV cache is in host memory: raise kv_cache_memory instead"
        )));
    }
    let kernels = Kernels::new(config.isa()?)?;
    let kv = plan_kv(&source.config, config, weight_bytes(source), available_bytes())?;
    let pool = Pool::new(config.threads.unwrap_or_else(Pool::default_threads));
    let (weights, unwritten) = load_kept_weights(source, &pool, config)?;
    let backend = format!("cpu {}, {} threads, {} activations", kernels.isa(), pool.num_lanes(), config.activations);
    let weight_bytes = num_bytes(&weights);
    let memory = KvMemory::new(kv.geometry.clone(), kv.shape)?;
    // The tokenizer takes longer to load than kept weights.
    memory.prepare();
    let runner = CpuRunner::new(CpuParts {
        config: source.config.clone(),
        weights,
        kernels,
        pool,
        distance: Distance::new(config.cores),
        kv: memory,
        max_tokens: config.max_num_batched_tokens,
        activations: config.activations,
        profile: config.profile.clone(),
        unwritten,
    });
    Ok(LoadedModel { runner: Box::new(runner), kv, weight_bytes, backend })
}

/// The weights, from the folder of packed ones if it has them. Otherwise they are to be written there.
fn load_kept_weights(
    source: &Source,
    pool: &Pool,
    config: &EngineConfig,
) -> Result<(CpuWeights, Option<PendingWrite>)> {
    let stamp = SourceStamp::of(&*source.checkpoint, config.quantization);
    let stamp = stamp.inspect_err(|err| tracing::debug!("no packed weights: {err}"));
    let (Some(folder), Ok(stamp)) = (&config.packed_weights, stamp) else {
        return Ok((load_weights(source, pool, None)?.weights, None));
    };
    let cache = PackedCache::new(folder.clone(), config.packed_weights_limit);
    let kept = cache.open(&stamp, pool);
    let LoadedWeights { weights, packed } = load_weights(source, pool, kept.as_ref())?;
    let unwritten = kept.is_none().then(|| PendingWrite::new(cache, stamp, packed));
    Ok((weights, unwritten))
}

/// What the tensors take in their file, which packing keeps to within a few percent.
pub fn weight_bytes(source: &Source) -> u64 {
    let checkpoint = &source.checkpoint;
    let infos = checkpoint.tensor_names().into_iter().filter_map(|name| checkpoint.info(name).ok());
    infos.map(|info| info.num_bytes() as u64).sum()
}

/// A folder without a tokenizer serves callers that bring token ids.
pub(crate) fn load_text(checkpoint: &dyn Checkpoint) -> Result<(Option<Tokenizer>, Option<ChatTemplate>)> {
    if let Some(gguf) = checkpoint.gguf() {
        return Ok((Some(Tokenizer::from_gguf(gguf)?), ChatTemplate::from_gguf(gguf)?));
    }
    let folder = checkpoint.path();
    let tokenizer = folder.join("tokenizer.json").exists().then(|| Tokenizer::from_dir(folder)).transpose()?;
    Ok((tokenizer, ChatTemplate::from_dir(folder)?))
}
