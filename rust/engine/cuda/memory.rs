//! What lies on the device beside the weights: the KV cache, activations and tables, allocated once.

use std::sync::Arc;

use half::bf16;

use super::driver::{Context, DeviceBuffer, DeviceSlice, PinnedBuffer, Stream};
use super::launch::{AttentionShape, Gemm};
use crate::error::Result;
use crate::kv::KvGeometry;
use crate::model::{ExpertsConfig, ModelConfig, RopeConfig, RopeTable};
use crate::sched::{BlockSwap, SchedulerOutput};

/// Positions of a sequence that one piece of a decode covers at least: the kernel's own constant.
const LEAST_SPLIT: usize = 256;
/// Most pieces of a sequence. Their number is the same in all steps, so that an answer does not depend on its company.
const MAX_SPLITS: usize = 16;

/// What is inside KV blocks: (layers_per_block, num_blocks, block_bytes).
pub struct KvCache {
    pub geometry: KvGeometry,
    pub shape: AttentionShape,
    bytes: DeviceBuffer<u8>,
    /// (layers_per_block, num_host_blocks, block_bytes): blocks of sequences that gave way to others.
    host: PinnedBuffer<u8>,
    /// By model layer: its group, and its slot in the group's blocks.
    places: Vec<(usize, usize)>,
}

impl KvCache {
    pub fn new(context: &Arc<Context>, geometry: KvGeometry, shape: AttentionShape) -> Result<Self> {
        let len = geometry.layers_per_block * geometry.num_blocks * shape.block_bytes();
        let num_layers = geometry.groups.iter().map(|group| group.layers.len()).sum();
        let mut places = vec![(0, 0); num_layers];
        for (group, kv_group) in geometry.groups.iter().enumerate() {
            for (slot, &layer) in kv_group.layers.iter().enumerate() {
                places[layer] = (group, slot);
            }
        }
        let host_len = geometry.layers_per_block * geometry.num_host_blocks * shape.block_bytes();
        let (bytes, host) = (DeviceBuffer::new(context, len)?, PinnedBuffer::new(context, host_len)?);
        Ok(Self { bytes, host, geometry, shape, places })
    }

    pub fn group(&self, layer: usize) -> usize {
        self.places[layer].0
    }

    /// (num_blocks, block_bytes) of one layer.
    pub fn layer(&self, layer: usize) -> DeviceSlice<'_, u8> {
        let len = self.geometry.num_blocks * self.shape.block_bytes();
        let slot = self.places[layer].1;
        self.bytes.slice(slot * len..(slot + 1) * len)
    }

    pub fn all(&self) -> DeviceSlice<'_, u8> {
        self.bytes.all()
    }

    /// Brings blocks to host memory and back. In the stream of the steps: blocks that go are written again in this step, and
    /// those that come are read in it, so that no other stream could do any of it meanwhile.
    pub fn swap(&mut self, step: &SchedulerOutput, stream: &Stream) -> Result<()> {
        let block_bytes = self.shape.block_bytes();
        let KvGeometry { num_blocks, num_host_blocks, layers_per_block, .. } = self.geometry;
        for (swaps, is_out) in [(&step.swaps_out, true), (&step.swaps_in, false)] {
            for run in swaps.chunk_by(are_neighbours) {
                for layer in 0..layers_per_block {
                    let (block, host) = (run[0].block.index(), run[0].host.index());
                    let start = (layer * num_blocks + block) * block_bytes;
                    let blocks = self.bytes.slice(start..start + run.len() * block_bytes);
                    let place = (layer * num_host_blocks + host) * block_bytes;
                    match is_out {
                        true => self.host.download_to(place, blocks, stream)?,
                        false => self.host.upload_from(place, blocks, stream)?,
                    }
                }
            }
        }
        Ok(())
    }
}

/// Both blocks lie side by side: one copy moves them.
fn are_neighbours(a: &BlockSwap, b: &BlockSwap) -> bool {
    a.block.index() + 1 == b.block.index() && a.host.index() + 1 == b.host.index()
}

/// The most of everything in one step.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    pub num_tokens: usize,
    pub num_seqs: usize,
    pub num_logit_rows: usize,
    /// Tokens that are chosen: several may come from one row.
    pub max_choices: usize,
    /// Longest prompt plus output.
    pub max_len: usize,
    pub num_multiprocessors: usize,
}

impl Capacity {
    pub fn num_splits(&self) -> usize {
        self.max_len.div_ceil(LEAST_SPLIT).min(MAX_SPLITS)
    }
}

/// Shapes as in [`crate::backend::Act`], with room for the most tokens of a step.
pub struct Activations {
    pub residual: DeviceBuffer<f32>,
    pub normed: DeviceBuffer<bf16>,
    pub qkv: DeviceBuffer<bf16>,
    pub attended: DeviceBuffer<bf16>,
    /// (num_tokens, 2 * intermediate_size): gates, then ups. With experts, a row for each of a token's.
    pub gate_up: DeviceBuffer<bf16>,
    pub gate: DeviceBuffer<bf16>,
    pub experts: Option<ExpertActivations>,
    pub projected: DeviceBuffer<bf16>,
    /// Of products whose tiles several blocks share.
    pub partials: DeviceBuffer<f32>,
    /// Generated tokens that there is room for pieces of.
    pub num_decodes: usize,
    /// (num_decodes, num_heads, num_splits, head_dim)
    pub partial_out: DeviceBuffer<f32>,
    /// (num_decodes, num_heads, num_splits, 2)
    pub partial_stats: DeviceBuffer<f32>,
    /// (num_logit_rows, vocab_size)
    pub logits: DeviceBuffer<f32>,
    /// (num_seqs, hidden_size): hidden states that callers want.
    pub hidden: DeviceBuffer<bf16>,
}

/// A token has an entry per expert that it takes; rows of entries are in the order of experts.
pub struct ExpertActivations {
    /// (num_tokens, count)
    pub logits: DeviceBuffer<f32>,
    /// (num_tokens, per_token)
    pub picked: DeviceBuffer<i32>,
    /// (num_tokens, per_token)
    pub shares: DeviceBuffer<f32>,
    /// (count + 1,)
    pub starts: DeviceBuffer<i32>,
    /// (num_tokens, per_token): where each entry's row is.
    pub rows: DeviceBuffer<i32>,
    /// (num_entries, hidden_size): what experts read.
    pub input: DeviceBuffer<bf16>,
    /// (num_entries, hidden_size): what they make of it.
    pub output: DeviceBuffer<bf16>,
}

impl ExpertActivations {
    fn new(context: &Arc<Context>, experts: ExpertsConfig, hidden_size: usize, num_tokens: usize) -> Result<Self> {
        let entries = num_tokens * experts.per_token;
        Ok(Self {
            logits: DeviceBuffer::new(context, num_tokens * experts.count)?,
            picked: DeviceBuffer::new(context, entries)?,
            shares: DeviceBuffer::new(context, entries)?,
            starts: DeviceBuffer::new(context, experts.count + 1)?,
            rows: DeviceBuffer::new(context, entries)?,
            input: DeviceBuffer::new(context, entries * hidden_size)?,
            output: DeviceBuffer::new(context, entries * hidden_size)?,
        })
    }

    fn num_bytes(experts: ExpertsConfig, hidden_size: usize, num_tokens: usize) -> usize {
        let ExpertsConfig { count, per_token, .. } = experts;
        num_tokens * (4 * count + per_token * (3 * 4 + 2 * 2 * hidden_size)) + 4 * (count + 1)
    }
}

impl Activations {
    pub fn new(context: &Arc<Context>, config: &ModelConfig, capacity: &Capacity) -> Result<Self> {
        let (tokens, hidden, ffn) = (capacity.num_tokens, config.hidden_size, config.intermediate_size);
        let pieces = capacity.num_seqs * config.num_heads * capacity.num_splits();
        let gate_rows = tokens * config.experts_per_token();
        let experts = config.experts.map(|experts| ExpertActivations::new(context, experts, hidden, tokens));
        Ok(Self {
            residual: DeviceBuffer::new(context, tokens * hidden)?,
            normed: DeviceBuffer::new(context, tokens * hidden)?,
            qkv: DeviceBuffer::new(context, tokens * (config.q_dim() + 2 * config.kv_dim()))?,
            // Attention leaves the rows of padding alone, and the product after it reads them.
            attended: DeviceBuffer::from_slice(context, &vec![bf16::ZERO; tokens * config.q_dim()])?,
            gate_up: DeviceBuffer::new(context, gate_rows * 2 * ffn)?,
            gate: DeviceBuffer::new(context, gate_rows * ffn)?,
            experts: experts.transpose()?,
            projected: DeviceBuffer::new(context, tokens * hidden)?,
            partials: DeviceBuffer::new(context, most_partials(config, capacity))?,
            num_decodes: capacity.num_seqs,
            partial_out: DeviceBuffer::new(context, pieces * config.head_dim)?,
            partial_stats: DeviceBuffer::new(context, pieces * 2)?,
            logits: DeviceBuffer::new(context, capacity.num_logit_rows * config.vocab_size)?,
            hidden: DeviceBuffer::new(context, capacity.num_seqs * hidden)?,
        })
    }

    /// Bytes that `new` takes.
    pub fn num_bytes(config: &ModelConfig, capacity: &Capacity) -> u64 {
        let gated = 3 * config.intermediate_size * config.experts_per_token();
        let per_token =
            4 * config.hidden_size + 2 * (2 * config.hidden_size + 2 * config.q_dim() + 2 * config.kv_dim() + gated);
        let of_experts = |experts| ExpertActivations::num_bytes(experts, config.hidden_size, capacity.num_tokens);
        let experts = config.experts.map_or(0, of_experts);
        let pieces = capacity.num_seqs * config.num_heads * capacity.num_splits();
        let ends = 4 * capacity.num_logit_rows * config.vocab_size + 2 * capacity.num_seqs * config.hidden_size;
        let partials = 4 * (pieces * (config.head_dim + 2) + most_partials(config, capacity));
        (capacity.num_tokens * per_token + experts + partials + ends) as u64
    }
}

/// Numbers in the partials of the largest product.
fn most_partials(config: &ModelConfig, capacity: &Capacity) -> usize {
    let widest = config.hidden_size.max(config.q_dim() + 2 * config.kv_dim()).max(2 * config.intermediate_size);
    let widest = widest.max(config.experts.map_or(0, |experts| experts.count));
    let product = |rows, cols| Gemm::most_partials(rows, cols, capacity.num_multiprocessors);
    product(capacity.num_tokens, widest).max(product(capacity.num_logit_rows, config.vocab_size))
}

/// The rotations of every position: (max_len, 2, dim / 2), cosines, then sines.
pub struct Rotations {
    pub cos_sin: DeviceBuffer<f32>,
    /// Leading dimensions of a head that rotate.
    pub dim: usize,
}

impl Rotations {
    pub fn new(context: &Arc<Context>, config: &RopeConfig, max_len: usize) -> Result<Self> {
        let (table, dim) = (RopeTable::new(config), config.dim);
        let mut cos_sin = vec![0.0; max_len * dim];
        for (position, row) in cos_sin.chunks_exact_mut(dim).enumerate() {
            let (cos, sin) = row.split_at_mut(dim / 2);
            table.fill(position, cos, sin);
        }
        Ok(Self { cos_sin: DeviceBuffer::from_slice(context, &cos_sin)?, dim })
    }
}
