//! The writing of keys and values.

use half::f16;

use super::int8;
use super::kv::{BLOCK_SIZE, KvLayer, KvShape, PANEL_DIMS};
use crate::config::KvDtype;
use crate::ids::BlockId;
use crate::kernels::{Kernels, dispatch};
use crate::quant::e4m3;

impl Kernels {
    /// Writes one position's keys and values (num_kv_heads, head_dim), rounded to the cache's type.
    ///
    /// # Safety
    /// `kv` is valid for its shape; no other lane touches this slot of the block's layer meanwhile, nor the other one of its pair,
    /// 2i and 2i + 1 (others may write other slots).
    pub unsafe fn store_kv(&self, kv: KvLayer<'_>, block: BlockId, slot: usize, k: &[f32], v: &[f32]) {
        let shape = kv.shape;
        let KvShape { num_kv_heads, head_dim, .. } = shape;
        assert!(slot < BLOCK_SIZE, "slot {slot} of {BLOCK_SIZE}");
        assert_eq!((k.len(), v.len()), (num_kv_heads * head_dim, num_kv_heads * head_dim), "(num_kv_heads, head_dim)");
        for (head, (k, v)) in k.chunks_exact(head_dim).zip(v.chunks_exact(head_dim)).enumerate() {
            let (keys, values) = (kv.keys(block, head), kv.values(block, head));
            if shape.dtype == KvDtype::Bf16 {
                // The pointers are to a head's pieces of the block.
                let to = Bf16Slot { keys: keys.cast(), values: values.cast(), slot };
                dispatch!(self, attention::store_bf16(to, k, v));
                continue;
            }
            // SAFETY: the caller's promise; the pointers are to a head's pieces of the block.
            unsafe {
                store_head(&shape, keys, slot, k, |d| shape.key_index(slot, d));
                store_head(&shape, values, slot, v, |d| shape.value_index(slot, d));
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
            KvDtype::Bf16 => store_as(piece, x, index, to_bf16),
            KvDtype::Fp8 => store_as(piece, x, index, fp8),
            KvDtype::Int8 => {
                let scale = int8::Scale::of(x);
                store_as(piece, x, index, |x| scale.quantize(x));
                piece.add(shape.scales_at()).cast::<f32>().add(slot).write(scale.scale);
            }
        }
    }
}

/// Where one position of a head of bf16 is stored.
pub(in crate::kernels) struct Bf16Slot {
    /// (pairs of dimensions, 16 slots)
    keys: *mut [u16; 2],
    /// (panels, pairs of slots): sixteen dimensions of two slots are a line.
    values: *mut [[u16; 2]; PANEL_DIMS],
    slot: usize,
}

impl Bf16Slot {
    /// Writes whole words of keys, and whole lines of values with what the other slot has in them.
    ///
    /// # Safety
    /// As for `store_head` with either piece; the other slot of the pair is the caller's too.
    #[inline(always)]
    pub(in crate::kernels) unsafe fn store(self, k: &[f32], v: &[f32]) {
        const CHUNK: usize = 64;
        let Self { keys, values, slot } = self;
        let mut rounded = [0; CHUNK];
        for (i, k) in k.chunks(CHUNK).enumerate() {
            // All before one is stored: that loop uses vector registers.
            rounded.iter_mut().zip(k).for_each(|(rounded, &x)| *rounded = to_bf16(x));
            for (pair, &dims) in rounded[..k.len()].as_chunks().0.iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { keys.add((i * CHUNK / 2 + pair) * BLOCK_SIZE + slot).write(dims) };
            }
        }
        for (panel, v) in v.chunks(PANEL_DIMS).enumerate() {
            // SAFETY: the caller's promise.
            let line = unsafe { &mut *values.add((panel * BLOCK_SIZE + slot) / 2) };
            line.iter_mut().zip(v).for_each(|(pair, &x)| pair[slot % 2] = to_bf16(x));
        }
    }
}

/// As `bf16::from_f32`, without a branch: to the nearest, ties to even; NaN stays one.
#[inline(always)]
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    ((if x.is_nan() { bits | 0x40_0000 } else { rounded }) >> 16) as u16
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

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    proptest::proptest! {
        #[test]
        fn bf16_are_those_of_the_library(bits: u32) {
            let x = f32::from_bits(bits);
            proptest::prop_assert_eq!(to_bf16(x), bf16::from_f32(x).to_bits());
        }
    }

    #[test]
    fn bf16_of_edges_are_those_of_the_library() {
        let sizes = [
            0,
            1,
            0x7f7f_7fff,
            0x7f7f_8000,
            0x7f7f_ffff,
            0x7f80_0000,
            0x7f80_0001,
            0x7fff_ffff,
            0x3f80_8000,
            0x3f81_8000,
        ];
        for bits in sizes.into_iter().flat_map(|size: u32| [size, size | 1 << 31]) {
            let x = f32::from_bits(bits);
            assert_eq!(to_bf16(x), bf16::from_f32(x).to_bits(), "{bits:#x}");
        }
    }
}
