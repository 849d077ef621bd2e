//! The layout of a KV block, and the writing of keys and values.

use std::marker::PhantomData;

use half::bf16;

use crate::config::KvDtype;
use crate::ids::BlockId;
use crate::kernels::Kernels;

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
        2 * self.num_kv_heads * self.head_bytes()
    }

    /// Bytes of one head's keys, or values, in a block.
    fn head_bytes(&self) -> usize {
        BLOCK_SIZE * self.head_dim * self.dtype.bytes()
    }

    /// The element, of one head's keys in a block, that holds dimension `d` of position `slot`.
    pub(in crate::kernels) fn key_index(&self, slot: usize, d: usize) -> usize {
        match self.dtype {
            KvDtype::F32 => d * BLOCK_SIZE + slot,
            KvDtype::Bf16 => (d / 2 * BLOCK_SIZE + slot) * 2 + d % 2,
        }
    }

    /// The same for values.
    pub(in crate::kernels) fn value_index(&self, slot: usize, d: usize) -> usize {
        match self.dtype {
            KvDtype::F32 => slot * self.head_dim + d,
            KvDtype::Bf16 => (slot / 2 * self.head_dim + d) * 2 + slot % 2,
        }
    }
}

/// Blocks of one layer that lie side by side: long enough for streaming reads, short enough that a short
/// context touches little memory.
pub const EXTENT_BLOCKS: usize = 16;

/// One layer's part of the KV memory: extents of 16 blocks, (num_blocks / 16, 16, shape.block_bytes()).
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
    pub(in crate::kernels) fn keys(&self, block: BlockId, head: usize) -> *mut u8 {
        assert!(block.index() < self.num_blocks, "block {block} of {}", self.num_blocks);
        assert!(head < self.shape.num_kv_heads, "KV head {head} of {}", self.shape.num_kv_heads);
        let (extent, block) = (block.index() / EXTENT_BLOCKS, block.index() % EXTENT_BLOCKS);
        let offset = extent * self.extent_stride + block * self.shape.block_bytes();
        self.ptr.wrapping_add(offset + head * self.shape.head_bytes())
    }

    /// Where its values begin.
    pub(in crate::kernels) fn values(&self, block: BlockId, head: usize) -> *mut u8 {
        self.keys(block, head).wrapping_add(self.shape.num_kv_heads * self.shape.head_bytes())
    }
}

impl Kernels {
    /// Writes one position's keys and values (num_kv_heads, head_dim), rounded to the cache's type.
    ///
    /// # Safety
    /// `kv` is valid for its shape; no other lane touches this slot of the block's layer meanwhile (others may
    /// write other slots).
    pub unsafe fn store_kv(&self, kv: KvLayer<'_>, block: BlockId, slot: usize, k: &[f32], v: &[f32]) {
        let KvShape { num_kv_heads, head_dim, dtype } = kv.shape;
        assert!(slot < BLOCK_SIZE, "slot {slot} of {BLOCK_SIZE}");
        assert_eq!((k.len(), v.len()), (num_kv_heads * head_dim, num_kv_heads * head_dim), "(num_kv_heads, head_dim)");
        for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            let (keys, values) = (kv.keys(block, head), kv.values(block, head));
            // SAFETY: the caller's promise; the pointers are to a head's part of the block, of this type.
            unsafe {
                match dtype {
                    KvDtype::F32 => store_head(&kv.shape, keys.cast(), values.cast(), slot, (k, v), |x| x),
                    KvDtype::Bf16 => store_head(&kv.shape, keys.cast(), values.cast(), slot, (k, v), bf16::from_f32),
                }
            }
        }
    }
}

/// # Safety
/// `keys` and `values` are those of one head in a block that holds `T`, which is `shape`'s type.
#[inline]
unsafe fn store_head<T>(
    shape: &KvShape,
    keys: *mut T,
    values: *mut T,
    slot: usize,
    (k, v): (&[f32], &[f32]),
    round: impl Fn(f32) -> T,
) {
    for (d, (&k, &v)) in k.iter().zip(v).enumerate() {
        // SAFETY: both indices lie within the head's part of the block.
        unsafe {
            keys.add(shape.key_index(slot, d)).write(round(k));
            values.add(shape.value_index(slot, d)).write(round(v));
        }
    }
}
