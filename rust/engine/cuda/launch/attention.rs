//! Attention over the paged cache.

use half::bf16;

use super::{Args, Call, KernelId, blocks, halves, words};
use crate::config::KvDtype;
use crate::cuda::driver::{DeviceSlice, LaunchShape};

/// Positions of a KV block.
const BLOCK_SIZE: usize = 16;
/// Query heads of a KV head that one block of the decode kernel takes.
const DECODE_HEADS: usize = 8;
/// Queries that one block of the prefill kernel takes.
const PREFILL_QUERIES: usize = 64;

/// The heads of all layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    pub num_heads: usize,
    pub num_kv_heads: usize,
    /// 64, 128 or 256.
    pub head_dim: usize,
    /// One of `KV_DTYPES`.
    pub kv_dtype: KvDtype,
}

impl AttentionShape {
    /// What kernels are built for.
    pub const HEAD_DIMS: [usize; 3] = [64, 128, 256];
    pub const KV_DTYPES: [KvDtype; 3] = [KvDtype::Bf16, KvDtype::Int8, KvDtype::Fp8];

    pub fn q_dim(&self) -> usize {
        self.num_heads * self.head_dim
    }

    pub fn qkv_dim(&self) -> usize {
        (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
    }

    /// Bytes of one position's keys and values.
    fn position_bytes(&self) -> usize {
        2 * self.num_kv_heads * self.kv_dtype.head_bytes(self.head_dim)
    }

    /// Of a block of one layer: its numbers (2, num_kv_heads, 16, head_dim), then scales, if there are any.
    pub fn block_bytes(&self) -> usize {
        BLOCK_SIZE * self.position_bytes()
    }

    pub(super) fn check(&self) {
        assert!(Self::HEAD_DIMS.contains(&self.head_dim), "no kernels for heads of {}", self.head_dim);
        assert_eq!(self.num_heads % self.num_kv_heads, 0);
    }

    /// Bytes that `tokens` queries read and write, and `kv_positions` of the cache that are read.
    fn num_bytes(&self, tokens: usize, kv_positions: u64) -> u64 {
        2 * halves(tokens * self.q_dim()) + self.position_bytes() as u64 * kv_positions
    }

    /// The kernel of this type of cache among those for `KV_DTYPES`.
    pub(super) fn pick_dtype<T: Copy>(&self, kernels: [T; 3]) -> T {
        let place = Self::KV_DTYPES.iter().position(|&dtype| dtype == self.kv_dtype);
        kernels[place.expect("checked when the model was loaded")]
    }

    /// The one of this head size besides, among those for `HEAD_DIMS`.
    fn pick(&self, kernels: [[KernelId; 3]; 3]) -> KernelId {
        let place = Self::HEAD_DIMS.iter().position(|&dim| dim == self.head_dim);
        self.pick_dtype(kernels)[place.expect("checked when the model was loaded")]
    }
}

/// Neighbouring queries of a sequence, as kernels read them. Without any it is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queries {
    /// The first one's, in the step.
    pub row: usize,
    pub count: usize,
    /// Positions up to that of the last one.
    pub context_len: usize,
    /// Row of the block table.
    pub sequence: usize,
}

impl Queries {
    pub const WORDS: usize = 4;

    pub fn words(self) -> [i32; Self::WORDS] {
        [self.row, self.count, self.context_len, self.sequence].map(|word| word as i32)
    }
}

/// A layer's attention in one step: what the queries see.
#[derive(Clone, Copy)]
pub struct Batch<'a> {
    pub shape: AttentionShape,
    /// (num_tokens, q_dim + 2 * kv_dim)
    pub qkv: DeviceSlice<'a, bf16>,
    /// A layer slot: (num_blocks, block_bytes)
    pub cache: DeviceSlice<'a, u8>,
    /// (num_seqs, max_blocks)
    pub block_tables: DeviceSlice<'a, i32>,
    pub num_seqs: usize,
    /// (num_runs,) [`Queries`]
    pub queries: DeviceSlice<'a, i32>,
    /// (num_tokens, q_dim)
    pub attended: DeviceSlice<'a, bf16>,
    /// None: all positions.
    pub window: Option<usize>,
    pub scale: f32,
    pub softcap: Option<f32>,
    /// Positions of the cache that the step's sequences read, for the count of bytes.
    pub kv_positions: u64,
}

impl Batch<'_> {
    fn num_runs(&self) -> usize {
        self.queries.len() / Queries::WORDS
    }

    fn max_blocks(&self) -> usize {
        self.block_tables.len() / self.num_seqs
    }

    fn num_bytes(&self) -> u64 {
        self.shape.num_bytes(self.attended.len() / self.shape.q_dim(), self.kv_positions)
    }

    fn check(&self) {
        self.shape.check();
        let tokens = self.attended.len() / self.shape.q_dim();
        assert_eq!(self.attended.len() % self.shape.q_dim(), 0);
        assert_eq!(self.qkv.len(), tokens * self.shape.qkv_dim());
        assert_eq!(self.cache.len() % self.shape.block_bytes(), 0);
        assert_eq!(self.queries.len() % Queries::WORDS, 0);
        assert_eq!(self.block_tables.len() % self.num_seqs, 0);
    }
}

/// Of generated tokens, whose contexts are cut into `num_splits` pieces at most.
pub struct DecodeAttention<'a> {
    pub batch: Batch<'a>,
    pub num_splits: usize,
    /// (num_runs, num_heads, num_splits, head_dim)
    pub partial_out: DeviceSlice<'a, f32>,
    /// (num_runs, num_heads, num_splits, 2)
    pub partial_stats: DeviceSlice<'a, f32>,
}

impl Call for DecodeAttention<'_> {
    fn kernel(&self) -> KernelId {
        use KernelId::*;
        self.batch.shape.pick([
            [DecodeAttention64, DecodeAttention128, DecodeAttention256],
            [DecodeInt8Attention64, DecodeInt8Attention128, DecodeInt8Attention256],
            [DecodeFp8Attention64, DecodeFp8Attention128, DecodeFp8Attention256],
        ])
    }

    fn shape(&self) -> LaunchShape {
        let AttentionShape { num_heads, num_kv_heads, .. } = self.batch.shape;
        let parts = num_kv_heads * (num_heads / num_kv_heads).div_ceil(DECODE_HEADS);
        blocks([self.num_splits, parts, self.batch.num_runs()], 128)
    }

    fn args(&self) -> Args {
        let batch = &self.batch;
        batch.check();
        let pieces = batch.num_runs() * batch.shape.num_heads * self.num_splits;
        assert_eq!(self.partial_out.len(), pieces * batch.shape.head_dim);
        assert_eq!(self.partial_stats.len(), pieces * 2);
        [
            batch.qkv.into(),
            batch.cache.into(),
            batch.block_tables.into(),
            batch.queries.into(),
            batch.attended.into(),
            self.partial_out.into(),
            self.partial_stats.into(),
            batch.shape.num_heads.into(),
            batch.shape.num_kv_heads.into(),
            batch.max_blocks().into(),
            batch.window.unwrap_or(0).into(),
            batch.scale.into(),
            batch.softcap.unwrap_or(0.0).into(),
        ]
        .into()
    }

    fn num_bytes(&self) -> u64 {
        self.batch.num_bytes()
    }
}

/// The pieces of [`DecodeAttention`] become one.
pub struct MergeSplits<'a> {
    pub batch: Batch<'a>,
    pub num_splits: usize,
    /// As there.
    pub partial_out: DeviceSlice<'a, f32>,
    pub partial_stats: DeviceSlice<'a, f32>,
}

impl Call for MergeSplits<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::MergeSplits
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.batch.shape.num_heads, self.batch.num_runs(), 1], 64)
    }

    fn args(&self) -> Args {
        let batch = &self.batch;
        batch.check();
        let pieces = batch.num_runs() * batch.shape.num_heads * self.num_splits;
        assert_eq!(self.partial_out.len(), pieces * batch.shape.head_dim);
        assert_eq!(self.partial_stats.len(), pieces * 2);
        [
            self.partial_out.into(),
            self.partial_stats.into(),
            batch.queries.into(),
            batch.attended.into(),
            batch.shape.num_heads.into(),
            batch.shape.head_dim.into(),
            self.num_splits.into(),
            batch.window.unwrap_or(0).into(),
        ]
        .into()
    }

    fn num_bytes(&self) -> u64 {
        words(self.partial_out.len() + self.partial_stats.len()) + halves(self.batch.attended.len())
    }
}

/// Of prompts.
pub struct PrefillAttention<'a> {
    pub batch: Batch<'a>,
    /// Most queries of a run.
    pub max_queries: usize,
}

impl Call for PrefillAttention<'_> {
    fn kernel(&self) -> KernelId {
        use KernelId::*;
        self.batch.shape.pick([
            [PrefillAttention64, PrefillAttention128, PrefillAttention256],
            [PrefillInt8Attention64, PrefillInt8Attention128, PrefillInt8Attention256],
            [PrefillFp8Attention64, PrefillFp8Attention128, PrefillFp8Attention256],
        ])
    }

    fn shape(&self) -> LaunchShape {
        let tiles = self.max_queries.div_ceil(PREFILL_QUERIES);
        blocks([tiles, self.batch.shape.num_heads, self.batch.num_runs()], 128)
    }

    fn args(&self) -> Args {
        let batch = &self.batch;
        batch.check();
        [
            batch.qkv.into(),
            batch.cache.into(),
            batch.block_tables.into(),
            batch.queries.into(),
            batch.attended.into(),
            batch.shape.num_heads.into(),
            batch.shape.num_kv_heads.into(),
            batch.max_blocks().into(),
            batch.window.unwrap_or(0).into(),
            batch.scale.into(),
            batch.softcap.unwrap_or(0.0).into(),
        ]
        .into()
    }

    fn num_bytes(&self) -> u64 {
        self.batch.num_bytes()
    }
}
