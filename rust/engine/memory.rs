//! How much memory this process may still take, and how much of it the KV cache gets.

use std::path::Path;

use crate::config::{EngineConfig, KvDtype};
use crate::error::{Error, Result};
use crate::kernels::KvShape;
use crate::kv::{KvGeometry, KvGroup};
use crate::model::ModelConfig;

/// Left for everything that is neither weights nor KV cache.
const RESERVE_BYTES: u64 = 256 << 20;
/// Share of what is free that the KV cache takes when no size is given.
const KV_SHARE: f64 = 0.5;
/// A model that was trained for more is cut down to what fits, but never below this.
const LEAST_AUTO_LEN: usize = 512;

/// Bytes that this process can still take: what the system calls available, or less under a cgroup's limit.
/// None where the system does not tell.
pub fn available_bytes() -> Option<u64> {
    let system = meminfo("MemAvailable:")?;
    Some(cgroup_free().map_or(system, |free| free.min(system)))
}

/// Physical memory of the machine in bytes.
pub fn total_bytes() -> Option<u64> {
    meminfo("MemTotal:")
}

fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn cgroup_free() -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    Some(limit.saturating_sub(used))
}

/// The KV cache of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvPlan {
    pub geometry: KvGeometry,
    pub shape: KvShape,
    pub bytes: u64,
    /// Longest prompt plus output.
    pub max_model_len: usize,
    /// Tokens that the cache holds, as sequences of that length.
    pub num_tokens: usize,
}

/// Cuts the KV cache from `available` bytes (None: not known), after `weight_bytes` are taken. Refuses what
/// cannot hold one sequence of the length that was asked for; a length that was not asked for shrinks to fit.
pub fn plan_kv(
    model: &ModelConfig,
    config: &EngineConfig,
    weight_bytes: u64,
    available: Option<u64>,
) -> Result<KvPlan> {
    let shape = kv_shape(model, config.kv_dtype());
    let windows: Vec<_> = model.layers.iter().map(|layer| layer.window).collect();
    let mut geometry = KvGeometry::new(0, config.block_size, &windows);
    let block_bytes = (geometry.layers_per_block * shape.block_bytes()) as u64;
    let blocks_for = |len: usize| blocks_for(&geometry, len, config.max_num_batched_tokens);

    let wanted_len = config.max_model_len.unwrap_or(model.max_position);
    let useful = blocks_for(wanted_len) * config.max_num_seqs as u64;
    let budget = kv_budget(config, weight_bytes, available)?;
    let num_blocks = (budget / block_bytes).min(useful).min(u64::from(u32::MAX));
    let fits = |len: usize| blocks_for(len) <= num_blocks;

    let max_model_len = match (fits(wanted_len), config.max_model_len) {
        (true, _) => wanted_len,
        (false, None) if fits(LEAST_AUTO_LEN.min(wanted_len)) => longest(wanted_len, fits),
        (false, _) => {
            let needed = blocks_for(wanted_len) * block_bytes;
            return Err(Error::OutOfMemory(format!(
                "a KV cache of {} cannot hold one sequence of {wanted_len} tokens, which takes {}: raise \
                 kv_cache_memory or lower max_model_len (at most {} tokens fit)",
                human(budget),
                human(needed),
                longest(wanted_len, fits),
            )));
        }
    };
    let num_tokens = (num_blocks * max_model_len as u64 / blocks_for(max_model_len)) as usize;
    geometry.num_blocks = num_blocks as usize;
    Ok(KvPlan { geometry, shape, bytes: num_blocks * block_bytes, max_model_len, num_tokens })
}

fn kv_shape(model: &ModelConfig, dtype: KvDtype) -> KvShape {
    KvShape { dtype, num_kv_heads: model.num_kv_heads, head_dim: model.head_dim }
}

fn kv_budget(config: &EngineConfig, weight_bytes: u64, available: Option<u64>) -> Result<u64> {
    let Some(available) = available else {
        return Ok(config.kv_cache_memory.unwrap_or(1 << 30));
    };
    let taken = weight_bytes + RESERVE_BYTES;
    let free = available.checked_sub(taken).ok_or_else(|| {
        Error::OutOfMemory(format!(
            "the model needs {} for its weights and {} to work in, but only {} of memory are free",
            human(weight_bytes),
            human(RESERVE_BYTES),
            human(available)
        ))
    })?;
    match config.kv_cache_memory {
        None => Ok((free as f64 * KV_SHARE) as u64),
        Some(asked) if asked <= free => Ok(asked),
        Some(asked) => Err(Error::OutOfMemory(format!(
            "kv_cache_memory is {}, but only {} of memory are free beside the weights ({})",
            human(asked),
            human(free),
            human(weight_bytes)
        ))),
    }
}

/// Blocks that a sequence of `len` tokens holds when it is computed in chunks of `chunk`: all of its own in
/// groups with full attention, the window and the chunk in sliding ones.
fn blocks_for(geometry: &KvGeometry, len: usize, chunk: usize) -> u64 {
    let blocks = |group: &KvGroup| {
        let most = group.window.map_or(usize::MAX, |window| (window + chunk).div_ceil(geometry.block_size) + 1);
        len.div_ceil(geometry.block_size).min(most) as u64
    };
    geometry.groups.iter().map(blocks).sum()
}

/// The largest length up to `most` that fits.
fn longest(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

/// Bytes for people.
pub fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activation, LayerConfig, RopeConfig, RopeScaling};

    fn model() -> ModelConfig {
        ModelConfig {
            family: "llama",
            name: "test".into(),
            vocab_size: 100,
            hidden_size: 64,
            intermediate_size: 128,
            experts: None,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 16,
            max_position: 4096,
            norm_eps: 1e-5,
            norm_weight_offset: 0.0,
            activation: Activation::Silu,
            layers: vec![LayerConfig { window: None, rope: 0 }; 2],
            ropes: vec![RopeConfig { theta: 1e4, dim: 16, scaling: RopeScaling::None }],
            attention_scale: 0.25,
            attention_softcap: None,
            final_softcap: None,
            embedding_scale: None,
            qkv_bias: false,
            qk_norm: false,
            post_norms: false,
            tie_embeddings: true,
        }
    }

    /// 2 layers x (K and V) x 2 heads x 16 dims x 2 bytes.
    const TOKEN_BYTES: u64 = 2 * 2 * 2 * 16 * 2;

    #[test]
    fn a_roomy_machine_holds_what_is_useful_and_no_more() {
        let config = EngineConfig { max_num_seqs: 3, ..EngineConfig::default() };
        let plan = plan_kv(&model(), &config, 0, Some(64 << 30)).unwrap();
        assert_eq!(plan.max_model_len, 4096);
        assert_eq!(plan.bytes, 3 * 4096 * TOKEN_BYTES);
    }

    #[test]
    fn every_type_of_cache_takes_what_the_model_says() {
        for (dtype, head_bytes) in
            [(KvDtype::F32, 64), (KvDtype::F16, 32), (KvDtype::Bf16, 32), (KvDtype::Int8, 16 + 4), (KvDtype::Fp8, 16)]
        {
            let config = EngineConfig { kv_cache_dtype: Some(dtype), max_num_seqs: 1, ..EngineConfig::default() };
            let plan = plan_kv(&model(), &config, 0, Some(64 << 30)).unwrap();
            assert_eq!(model().kv_bytes_per_token(dtype), 2 * 2 * 2 * head_bytes);
            assert_eq!(plan.bytes, 4096 * model().kv_bytes_per_token(dtype) as u64, "{dtype}");
        }
    }

    #[test]
    fn a_length_that_nobody_asked_for_shrinks() {
        let config = EngineConfig { kv_cache_memory: Some(1000 * TOKEN_BYTES), ..EngineConfig::default() };
        let plan = plan_kv(&model(), &config, 0, Some(64 << 30)).unwrap();
        assert_eq!(plan.max_model_len, 1000 / 16 * 16);
    }

    #[test]
    fn a_length_that_was_asked_for_is_refused_with_the_numbers() {
        let config = EngineConfig {
            kv_cache_memory: Some(1000 * TOKEN_BYTES),
            max_model_len: Some(2000),
            ..EngineConfig::default()
        };
        let error = plan_kv(&model(), &config, 0, Some(64 << 30)).unwrap_err().to_string();
        assert!(error.contains("2000 tokens") && error.contains("992 tokens fit"), "{error}");
    }

    #[test]
    fn weights_that_do_not_fit_are_refused() {
        let error = plan_kv(&model(), &EngineConfig::default(), 8 << 30, Some(4 << 30)).unwrap_err().to_string();
        assert!(error.contains("8.00 GiB") && error.contains("4.00 GiB"), "{error}");
    }
}
