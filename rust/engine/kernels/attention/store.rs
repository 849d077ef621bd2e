//! The writing of keys and values.

use half::f16;

use super::int8;
use super::kv::{BLOCK_SIZE, KvLayer, KvShape, PANEL_DIMS};
use crate::config::KvDtype;
use crate::ids::BlockId;
use crate::kernels::Kernels;
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
            // SAFETY: the caller's promise; the pointers are to a head's pieces of the block.
            unsafe {
                if shape.dtype == KvDtype::Bf16 {
                    store_bf16_keys(keys.cast(), slot, k);
                    store_bf16_values(values.cast(), slot, v);
                    continue;
                }
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

/// By where a position, or a dimension, is in its pair: how far its bits are moved in the pair's word.
const SHIFTS: [u32; 2] = if cfg!(target_endian = "little") { [0, 16] } else { [16, 0] };

/// Keys of bf16, whose words are two dimensions: they are (pairs, 16 slots).
///
/// # Safety
/// As for `store_head`.
#[inline]
unsafe fn store_bf16_keys(piece: *mut u32, slot: usize, x: &[f32]) {
    for (i, pair) in x.as_chunks().0.iter().enumerate() {
        let [first, second]: [u32; 2] = pair.map(|x| to_bf16(x).into());
        // SAFETY: the caller's promise.
        unsafe { piece.add(i * BLOCK_SIZE + slot).write(first << SHIFTS[0] | second << SHIFTS[1]) };
    }
}

/// Values of bf16, whose words are two slots: they are (panels, pairs of slots, 16 dimensions). Whole lines are read and written.
///
/// # Safety
/// As for `store_head`.
#[inline]
unsafe fn store_bf16_values(piece: *mut u32, slot: usize, x: &[f32]) {
    let shift = SHIFTS[slot % 2];
    let keep = !(0xffff << shift);
    for (i, x) in x.chunks(PANEL_DIMS).enumerate() {
        // SAFETY: the caller's promise, which is for both slots of the pair.
        let line = unsafe { &mut *piece.add((i * BLOCK_SIZE + slot) / 2 * PANEL_DIMS).cast::<[u32; PANEL_DIMS]>() };
        for (word, &x) in line.iter_mut().zip(x) {
            *word = *word & keep | u32::from(to_bf16(x)) << shift;
        }
    }
}

/// As `bf16::from_f32`, without a branch: to the nearest, ties to even; NaN stays one.
#[inline]
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
