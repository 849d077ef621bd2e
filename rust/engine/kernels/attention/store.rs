//! The writing of keys and values.

use half::{bf16, f16};

use super::int8;
use super::kv::{BLOCK_SIZE, KvLayer, KvShape};
use crate::config::KvDtype;
use crate::ids::BlockId;
use crate::kernels::Kernels;
use crate::quant::e4m3;

impl Kernels {
    /// Writes one position's keys and values (num_kv_heads, head_dim), rounded to the cache's type.
    ///
    /// # Safety
    /// `kv` is valid for its shape; no other lane touches this slot of the block's layer meanwhile (others may
    /// write other slots).
    pub unsafe fn store_kv(&self, kv: KvLayer<'_>, block: BlockId, slot: usize, k: &[f32], v: &[f32]) {
        let shape = kv.shape;
        let KvShape { num_kv_heads, head_dim, .. } = shape;
        assert!(slot < BLOCK_SIZE, "slot {slot} of {BLOCK_SIZE}");
        assert_eq!((k.len(), v.len()), (num_kv_heads * head_dim, num_kv_heads * head_dim), "(num_kv_heads, head_dim)");
        for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            // SAFETY: the caller's promise; the pointers are to a head's pieces of the block.
            unsafe {
                store_head(&shape, kv.keys(block, head), slot, k, |d| shape.key_index(slot, d));
                store_head(&shape, kv.values(block, head), slot, v, |d| shape.value_index(slot, d));
            }
        }
    }
}

/// Writes one position of a head: number `d` of `x` becomes element `index(d)` of the piece.
///
/// # Safety
/// `piece` is one of this shape, and the indices lie within it.
#[inline]
unsafe fn store_head(shape: &KvShape, piece: *mut u8, slot: usize, x: &[f32], index: impl Fn(usize) -> usize) {
    // SAFETY: the caller's promise; a piece of int8 ends with a scale per slot.
    unsafe {
        match shape.dtype {
            KvDtype::F32 => store_as::<f32>(piece, x, index, |x| x),
            KvDtype::F16 => store_as(piece, x, index, f16::from_f32),
            KvDtype::Bf16 => store_as(piece, x, index, bf16::from_f32),
            KvDtype::Fp8 => store_as(piece, x, index, fp8),
            KvDtype::Int8 => {
                let scale = int8::Scale::of(x);
                store_as(piece, x, index, |x| scale.quantize(x));
                piece.add(shape.scales_at()).cast::<f32>().add(slot).write(scale.scale);
            }
        }
    }
}

/// Kernels read no NaN of eight bits: it becomes the greatest number.
fn fp8(x: f32) -> u8 {
    e4m3::encode(if x.is_nan() { f32::INFINITY } else { x })
}

/// # Safety
/// As for `store_head`; the piece is of `T`.
#[inline]
unsafe fn store_as<T>(piece: *mut u8, x: &[f32], index: impl Fn(usize) -> usize, round: impl Fn(f32) -> T) {
    for (d, &x) in x.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { piece.cast::<T>().add(index(d)).write(round(x)) };
    }
}
