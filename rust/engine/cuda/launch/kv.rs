//! Whole blocks of the cache.

use half::bf16;

use super::{Args, AttentionShape, Call, KernelId, blocks, halves, words};
use crate::cuda::driver::{Arg, DeviceSlice, LaunchShape};

/// Copies blocks in every layer slot. No block is a source and a destination.
pub struct CopyBlocks<'a> {
    pub shape: AttentionShape,
    /// The whole cache: (layers_per_block, num_blocks, 2, num_kv_heads, 16, head_dim)
    pub cache: DeviceSlice<'a, bf16>,
    pub layers_per_block: usize,
    /// (num_copies, 2): source, destination.
    pub pairs: DeviceSlice<'a, i32>,
}

impl CopyBlocks<'_> {
    fn num_copies(&self) -> usize {
        self.pairs.len() / 2
    }

    fn num_blocks(&self) -> usize {
        self.cache.len() / (self.layers_per_block * self.shape.block_elements())
    }
}

impl Call for CopyBlocks<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::CopyBlocks
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.num_copies(), self.layers_per_block, 1], 256)
    }

    fn args(&self) -> Args {
        let elements = self.shape.block_elements();
        assert_eq!(self.cache.len(), self.layers_per_block * self.num_blocks() * elements);
        let [blocks, elements] = [self.num_blocks(), elements].map(|n| Arg::I64(n as i64));
        [self.cache.into(), self.pairs.into(), blocks, elements].into()
    }

    fn num_bytes(&self) -> u64 {
        let copied = self.num_copies() * self.layers_per_block * self.shape.block_elements();
        words(self.pairs.len()) + 2 * halves(copied)
    }
}
