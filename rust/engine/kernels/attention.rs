//! Attention over the paged KV cache, and the layout of a KV block.

use std::marker::PhantomData;

use super::Kernels;
use crate::config::KvDtype;
use crate::ids::BlockId;

/// Positions per block.
pub const BLOCK_SIZE: usize = 16;

/// One layer's part of a block: K of all KV heads, then V of all KV heads.
///
/// ```text
/// f32:  K (num_kv_heads, head_dim, 16)        V (num_kv_heads, 16, head_dim)
/// bf16: K (num_kv_heads, head_dim / 2, 16, 2)  V (num_kv_heads, 8, head_dim, 2)   pairs of dims / of positions
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub dtype: KvDtype,
    pub num_kv_heads: usize,
    /// Even.
    pub head_dim: usize,
}

impl KvShape {
    pub fn block_bytes(&self) -> usize {
        2 * BLOCK_SIZE * self.num_kv_heads * self.head_dim * self.dtype.bytes()
    }
}

/// One layer slot of the KV memory: (num_blocks, shape.block_bytes()).
#[derive(Debug, Clone, Copy)]
pub struct KvLayer<'a> {
    /// 64-byte aligned.
    pub ptr: *mut u8,
    pub num_blocks: usize,
    pub shape: KvShape,
    pub _life: PhantomData<&'a mut [u8]>,
}

/// Consecutive queries of one sequence against one KV head: the query heads that share it.
#[derive(Debug, Clone, Copy)]
pub struct AttentionTask<'a> {
    pub kv: KvLayer<'a>,
    pub kv_head: usize,
    /// Query heads per KV head.
    pub group: usize,
    /// Entry i holds positions (first_block + i) * 16 ...
    pub blocks: &'a [BlockId],
    pub first_block: usize,
    /// Position of the first query; query i sees positions ..= start + i.
    pub start: usize,
    pub num_queries: usize,
    /// Positions that a query sees, its own included. None: all.
    pub window: Option<usize>,
    /// Multiplies scores.
    pub scale: f32,
    /// cap * tanh(score / cap).
    pub softcap: Option<f32>,
    /// (num_queries, stride): query i's heads `kv_head * group ..` lie at `i * q_stride + kv_head * group * head_dim`.
    pub q: *const f32,
    pub q_stride: usize,
    /// Laid out as `q`.
    pub out: *mut f32,
    pub out_stride: usize,
}

impl Kernels {
    /// Writes one position's keys and values (num_kv_heads, head_dim), rounded to the cache's type.
    ///
    /// # Safety
    /// `block < num_blocks`, `slot < 16`; no other lane touches this block's layer meanwhile, except other
    /// slots in f32... (bf16 V keeps two positions in one word: lanes split by even pairs of slots or by sequence).
    pub unsafe fn store_kv(&self, _kv: KvLayer<'_>, _block: BlockId, _slot: usize, _k: &[f32], _v: &[f32]) {
        todo!()
    }

    /// Softmax attention of the task's queries. The softmax runs over chunks of 256 positions at absolute
    /// multiples of 256, merged in order: a query's bits depend on neither the other queries nor the caller's split.
    ///
    /// # Safety
    /// Pointers are valid for the shapes above; positions up to start + num_queries - 1 (within the window)
    /// are stored; no other lane writes them or these heads of `out` meanwhile.
    pub unsafe fn attention(&self, _task: &AttentionTask<'_>, _scratch: &mut Vec<f32>) {
        todo!()
    }
}
