//! The matrix kernels in AVX-512 with VNNI: a panel's 16 rows are one register.

mod float32;
mod int8;
mod unpack;

use std::arch::x86_64::*;

use crate::kernels::matmul::{Lanes, MatmulTier, RowMut, quantize_groups};

pub static TIER: MatmulTier = MatmulTier {
    quantize,
    unpack: unpack::unpack,
    int8_tile: int8::int8_tile,
    int8_panel: Some(int8::int8_panel),
    decode: float32::decode,
    widen: float32::widen,
    f32_tile: float32::f32_tile,
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn quantize(x: &[f32], out: RowMut) {
    // SAFETY: the caller's promise.
    unsafe { quantize_groups(x, out) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn load16(lanes: &Lanes) -> __m512 {
    // SAFETY: 16 floats.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn store16(lanes: &mut Lanes, v: __m512) {
    // SAFETY: 16 floats.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), v) }
}

/// Hides where a pointer came from. LLVM would otherwise hoist the loads of all steps of an unrolled loop
/// above it, and spill the accumulators.
#[inline]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written")]
fn opaque<T>(mut ptr: *const T) -> *const T {
    // SAFETY: the assembly is empty.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) ptr, options(pure, nomem, nostack, preserves_flags)) };
    ptr
}
