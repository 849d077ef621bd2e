//! The layout of a KV block.

use std::marker::PhantomData;
use std::ops::Range;

use crate::config::KvDtype;
use crate::ids::{BlockId, EXTENT_BLOCKS};

/// Positions per block.
pub const BLOCK_SIZE: usize = 16;

/// Dimensions of a panel of values: what one register holds.
pub(super) const PANEL_DIMS: usize = 16;

/// What a block holds of one layer: a piece of keys and a piece of values for each KV head.
///
/// ```text
/// f32, f16:         K (head_dim, 16)         V (head_dim / 16, 16, 16)
/// bf16, int8, fp8:  K (head_dim / 2, 16, 2)  V (head_dim / 16, 8, 16, 2)   pairs of dims / of positions
/// int8 besides:     scales (16,), float32, at the end of a piece
/// ```
/// Keys have 16 positions side by side, values 16 dimensions, so that no kernel sums across a register's lanes.
/// A piece has room for head_dim rounded up to whole panels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub dtype: KvDtype,
    pub num_kv_heads: usize,
    /// Even.
    pub head_dim: usize,
}

impl KvShape {
    pub fn block_bytes(&self) -> usize {
        2 * self.num_kv_heads * self.piece_bytes()
    }

    /// Where a block's pieces lie in its extent, in bytes: head by head its keys, then its values.
    pub fn pieces(&self, block: BlockId) -> impl Iterator<Item = Range<usize>> + use<> {
        let (bytes, block) = (self.piece_bytes(), block.index() % EXTENT_BLOCKS);
        (0..2 * self.num_kv_heads)
            .map(move |piece| (piece * EXTENT_BLOCKS + block) * bytes)
            .map(move |at| at..at + bytes)
    }

    /// Bytes of one head's keys, or values, in a block.
    pub(in crate::kernels) fn piece_bytes(&self) -> usize {
        self.scales_at() + BLOCK_SIZE * self.dtype.scale_bytes()
    }

    /// Where a piece's scales begin, in bytes.
    pub(in crate::kernels) fn scales_at(&self) -> usize {
        self.value_panels() * PANEL_DIMS * BLOCK_SIZE * self.dtype.number_bytes()
    }

    pub(in crate::kernels) fn value_panels(&self) -> usize {
        self.head_dim.div_ceil(PANEL_DIMS)
    }

    /// The element, of one head's keys in a block, that holds dimension `d` of position `slot`.
    pub(in crate::kernels) fn key_index(&self, slot: usize, d: usize) -> usize {
        self.panel_index(d, slot)
    }

    /// The same for values.
    pub(in crate::kernels) fn value_index(&self, slot: usize, d: usize) -> usize {
        self.panel_index(d / PANEL_DIMS * BLOCK_SIZE + slot, d % PANEL_DIMS)
    }

    /// Of panels side by side: (depth, 16), or (depth / 2, 16, 2).
    fn panel_index(&self, depth: usize, lane: usize) -> usize {
        match self.dtype {
            KvDtype::F32 | KvDtype::F16 => depth * 16 + lane,
            KvDtype::Bf16 | KvDtype::Int8 | KvDtype::Fp8 => (depth / 2 * 16 + lane) * 2 + depth % 2,
        }
    }
}

/// One layer's part of the KV memory: (num_blocks / 16, num_kv_heads, K and V, 16 blocks, piece). A head's pieces of
/// adjacent blocks are adjacent, so that its keys, and its values, of 256 positions read as one stream, and the heads
/// of a sequence as another.
#[derive(Debug, Clone, Copy)]
pub struct KvLayer<'a> {
    /// 64-byte aligned.
    pub ptr: *mut u8,
    /// Bytes from one extent to the next: other layers' extents lie between them.
    pub extent_stride: usize,
    pub num_blocks: usize,
    pub shape: KvShape,
    pub _life: PhantomData<&'a mut [u8]>,
}

impl KvLayer<'_> {
    /// Where the keys of a head in a block begin.
    #[inline]
    pub(in crate::kernels) fn keys(&self, block: BlockId, head: usize) -> *mut u8 {
        self.piece(block, 2 * head)
    }

    /// Where its values begin.
    #[inline]
    pub(in crate::kernels) fn values(&self, block: BlockId, head: usize) -> *mut u8 {
        self.piece(block, 2 * head + 1)
    }

    #[inline]
    fn piece(&self, block: BlockId, piece: usize) -> *mut u8 {
        assert!(block.index() < self.num_blocks, "block {block} of {}", self.num_blocks);
        assert!(piece / 2 < self.shape.num_kv_heads, "KV head {} of {}", piece / 2, self.shape.num_kv_heads);
        let (extent, block) = (block.index() / EXTENT_BLOCKS, block.index() % EXTENT_BLOCKS);
        self.ptr.wrapping_add(extent * self.extent_stride + (piece * EXTENT_BLOCKS + block) * self.shape.piece_bytes())
    }
}
