//! A model on disk becomes a runner on a GPU.

use std::sync::Arc;

use super::driver::{Context, DeviceInfo, Driver};
use super::heads::HeadPadding;
use super::image::Images;
use super::launch::{AttentionShape, Kernels};
use super::memory::{Activations, Capacity};
use super::{open, open_cublaslt, weights};
use crate::config::{self, Device, EngineConfig, KvDtype};
use crate::engine::max_logit_rows;
use crate::error::{Error, Result};
use crate::kernels::threads::Pool;
use crate::load::LoadedModel;
use crate::memory::{KvPlan, plan_kv};
use crate::model::{ModelConfig, Source};
use crate::runner::{CudaParts, CudaRunner};

/// Share of what is free that the KV cache takes when no size is given.
const KV_SHARE: f64 = 0.9;
/// The oldest compute capability with the instructions that kernels use (sm_80: bf16 products, cp.async).
const LEAST_CAPABILITY: (u32, u32) = (8, 0);

/// Brings a model's weights to the first GPU, and plans its memory.
pub(crate) fn load(source: &Source, config: &EngineConfig) -> Result<LoadedModel> {
    check_settings(config)?;
    let padding = weights::check(source)?;
    let driver = open(config.device)?;
    let context = driver.context(0)?;
    check_device(context.info())?;
    let kernels = load_kernels(&driver, &context, config)?;
    let padded = padding.apply(&source.config);
    let weight_bytes = weights::weight_bytes(source, padding)?;
    let num_multiprocessors = context.info().num_multiprocessors;
    let cublaslt = config.cublaslt.then(|| open_cublaslt(config.device, &driver, &context)).transpose()?;
    let (kv, capacity) = plan(&padded, config, num_multiprocessors, weight_bytes, context.free_bytes()?)?;
    let threads = config.threads.unwrap_or_else(Pool::default_threads);
    let backend = describe(&context, config.device, padding, kv_dtype(config));
    let runner = CudaRunner::new(CudaParts {
        weights: weights::load(source, &context, padding, threads)?,
        context,
        config: padded,
        padding,
        capacity,
        kernels,
        cublaslt,
        geometry: kv.geometry.clone(),
        kv_dtype: kv_dtype(config),
        profile: config.profile.clone(),
    })?;
    Ok(LoadedModel { runner: Box::new(runner), kv, weight_bytes, backend })
}

/// Settings that only the CPU has.
fn check_settings(config: &EngineConfig) -> Result<()> {
    let refuse = |what: String| Err(Error::InvalidConfig(format!("{what} on the device '{}'", config.device)));
    if config.activations == config::Activations::F32 {
        return refuse("activations is f32: bf16 is built".into());
    }
    match kv_dtype(config) {
        dtype if AttentionShape::KV_DTYPES.contains(&dtype) => Ok(()),
        dtype => refuse(format!("kv_cache_dtype is {dtype}: bf16, int8 and fp8 are built")),
    }
}

fn kv_dtype(config: &EngineConfig) -> KvDtype {
    config.kv_cache_dtype.unwrap_or(KvDtype::Bf16)
}

fn check_device(info: &DeviceInfo) -> Result<()> {
    if info.capability >= LEAST_CAPABILITY {
        return Ok(());
    }
    let (major, minor) = info.capability;
    Err(Error::Device(format!("{} has compute capability {major}.{minor}; 8.0 (Ampere) or later is needed", info.name)))
}

fn load_kernels(driver: &Driver, context: &Arc<Context>, config: &EngineConfig) -> Result<Kernels> {
    // The emulator has its kernels, and ignores the image.
    if config.device == Device::CudaEmu {
        return Kernels::load(context, |_| Ok(vec![0]));
    }
    let (major, _) = driver.version()?;
    let folder = config.packed_weights.as_ref().map(|weights| weights.with_file_name("kernels"));
    let images = Images::new(context.info().capability, major, folder);
    Kernels::load(context, |source| images.get(source))
}

/// The KV cache, and the most that a step may hold, from what is free beside the weights.
fn plan(
    model: &ModelConfig,
    config: &EngineConfig,
    num_multiprocessors: usize,
    weight_bytes: u64,
    free: u64,
) -> Result<(KvPlan, Capacity)> {
    let num_logit_rows = max_logit_rows(config, model.vocab_size).min(config.max_num_batched_tokens);
    let capacity = |max_len| Capacity {
        num_tokens: config.max_num_batched_tokens,
        num_seqs: config.max_num_seqs.min(config.max_num_batched_tokens),
        num_logit_rows,
        max_choices: config.max_num_seqs,
        max_len,
        num_multiprocessors,
    };
    let longest = capacity(config.max_model_len.unwrap_or(model.max_position));
    let taken = weight_bytes + Activations::num_bytes(model, &longest);
    let share = (free.saturating_sub(taken) as f64 * KV_SHARE) as u64;
    let config = EngineConfig {
        kv_cache_dtype: Some(kv_dtype(config)),
        kv_cache_memory: config.kv_cache_memory.or(Some(share)),
        ..config.clone()
    };
    let mut kv = plan_kv(model, &config, taken, Some(free))?;
    let block_bytes = kv.shape.block_bytes() * kv.geometry.layers_per_block;
    kv.geometry.num_host_blocks = (config.swap_space / block_bytes as u64).min(u64::from(u32::MAX)) as usize;
    let capacity = capacity(kv.max_model_len);
    Ok((kv, capacity))
}

fn describe(context: &Context, device: Device, padding: HeadPadding, kv_dtype: KvDtype) -> String {
    let DeviceInfo { name, capability: (major, minor), .. } = context.info();
    let heads = match padding.real == padding.padded {
        true => String::new(),
        false => format!(", heads of {} as {}", padding.real, padding.padded),
    };
    format!("{device} {name} (sm_{major}{minor}), bf16 activations, {kv_dtype} keys and values{heads}")
}
