//! What happens to queries and keys before attention.

use half::bf16;

use super::{Args, AttentionShape, Call, KernelId, blocks, halves, words};
use crate::cuda::driver::{DeviceSlice, LaunchShape};

/// Bias, head norms and rotation; queries stay in `qkv`, keys and values go to the cache.
pub struct RopeAndStore<'a> {
    pub shape: AttentionShape,
    /// (num_tokens, q_dim + 2 * kv_dim)
    pub qkv: DeviceSlice<'a, bf16>,
    /// (q_dim + 2 * kv_dim,)
    pub bias: Option<DeviceSlice<'a, f32>>,
    /// (head_dim,)
    pub query_norm: Option<DeviceSlice<'a, f32>>,
    /// (head_dim,)
    pub key_norm: Option<DeviceSlice<'a, f32>>,
    /// (max_position, 2, rotary_dim / 2)
    pub cos_sin: DeviceSlice<'a, f32>,
    pub rotary_dim: usize,
    /// (num_tokens,)
    pub positions: DeviceSlice<'a, i32>,
    /// (num_tokens,): block * 16 + place in it; negative: nothing is stored.
    pub slots: DeviceSlice<'a, i32>,
    /// A layer slot: (num_blocks, block_bytes)
    pub cache: DeviceSlice<'a, u8>,
    pub eps: f32,
}

impl Call for RopeAndStore<'_> {
    fn kernel(&self) -> KernelId {
        self.shape.pick_dtype([KernelId::RopeAndStore, KernelId::RopeAndStoreInt8, KernelId::RopeAndStoreFp8])
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.positions.len(), self.shape.qkv_dim().div_ceil(1024), 1], 128)
    }

    fn args(&self) -> Args {
        let shape = &self.shape;
        shape.check();
        assert_eq!(self.qkv.len(), self.positions.len() * shape.qkv_dim());
        assert_eq!(self.slots.len(), self.positions.len());
        assert!(self.bias.is_none_or(|bias| bias.len() == shape.qkv_dim()));
        assert!([self.query_norm, self.key_norm].into_iter().flatten().all(|norm| norm.len() == shape.head_dim));
        assert!(self.rotary_dim.is_multiple_of(16) && self.rotary_dim <= shape.head_dim, "{}", self.rotary_dim);
        assert_eq!(self.cos_sin.len() % self.rotary_dim, 0);
        assert_eq!(self.cache.len() % shape.block_bytes(), 0);
        [
            self.qkv.into(),
            self.bias.into(),
            self.query_norm.into(),
            self.key_norm.into(),
            self.cos_sin.into(),
            self.positions.into(),
            self.slots.into(),
            self.cache.into(),
            shape.num_heads.into(),
            shape.num_kv_heads.into(),
            shape.head_dim.into(),
            self.rotary_dim.into(),
            self.eps.into(),
        ]
        .into()
    }

    fn num_bytes(&self) -> u64 {
        let tokens = self.positions.len();
        2 * halves(self.qkv.len()) + words(tokens * (2 + self.rotary_dim))
    }
}
