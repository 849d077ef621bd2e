//! Whole blocks of the cache.

use super::{Args, AttentionShape, Call, KernelId, blocks, words};
use crate::cuda::driver::{Arg, DeviceSlice, LaunchShape};

/// Copies blocks in every layer slot. No block is a source and a destination.
pub struct CopyBlocks<'a> {
    pub shape: AttentionShape,
    /// The whole cache: (layers_per_block, num_blocks, block_bytes)
    pub cache: DeviceSlice<'a, u8>,
    pub layers_per_block: usize,
    /// (num_copies, 2): source, destination.
    pub pairs: DeviceSlice<'a, i32>,
}

impl CopyBlocks<'_> {
    fn num_copies(&self) -> usize {
        self.pairs.len() / 2
    }

    fn num_blocks(&self) -> usize {
        self.cache.len() / (self.layers_per_block * self.shape.block_bytes())
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
        let bytes = self.shape.block_bytes();
        assert_eq!(self.cache.len(), self.layers_per_block * self.num_blocks() * bytes);
        let [blocks, bytes] = [self.num_blocks(), bytes].map(|n| Arg::I64(n as i64));
        [self.cache.into(), self.pairs.into(), blocks, bytes].into()
    }

    fn num_bytes(&self) -> u64 {
        let copied = self.num_copies() * self.layers_per_block * self.shape.block_bytes();
        words(self.pairs.len()) + 2 * copied as u64
    }
}
