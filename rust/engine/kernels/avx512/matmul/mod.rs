//! The matrix kernels in AVX-512 with VNNI: a panel's 16 rows are one register.

mod bf16;
mod float32;
mod int8;
mod int8_rows;
mod quantize;
mod unpack;

use std::arch::x86_64::*;

use crate::kernels::matmul::{Int8Kernels, Lanes, MatmulTier};

pub static TIER: MatmulTier = VNNI;

const VNNI: MatmulTier = MatmulTier {
    quantize: quantize::quantize,
    quantize_wide: quantize::quantize_wide,
    unpack: unpack::unpack,
    int8: Int8Kernels::Packed(int8::packed_int8),
    decode: float32::decode,
    widen: float32::widen,
    columns: unpack::columns,
    add_columns: unpack::add_columns,
    dense_panels: Some(float32::dense_panels),
    f32_tile: float32::f32_tile,
    bf16: None,
};

/// With BF16.
pub static BF16_TIER: MatmulTier = MatmulTier { bf16: Some(&bf16::KERNELS), ..VNNI };

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
