//! The matrix kernels in AVX-512 with VNNI: a panel's 16 rows are one register.

mod float32;
mod int8;
mod unpack;

use std::arch::x86_64::*;

use crate::kernels::matmul::{GROUP, Int8Kernels, Lanes, MatmulTier, RowMut, scale_of};

pub static TIER: MatmulTier = MatmulTier {
    quantize,
    unpack: unpack::unpack,
    int8: Int8Kernels::Packed(int8::packed_int8),
    decode: float32::decode,
    widen: float32::widen,
    dense_panels: Some(float32::dense_panels),
    f32_tile: float32::f32_tile,
};

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn quantize(x: &[f32], out: RowMut) {
    for group in 0..out.groups() {
        let x = &x[(group * GROUP).min(x.len())..];
        let (low, high) = (load_floats(x), load_floats(x.get(16..).unwrap_or_default()));
        // As integers, magnitudes compare as the numbers do, infinity and NaN highest.
        let magnitude = |v| _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fff_ffff));
        let max = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(magnitude(low), magnitude(high))));
        let (scale, inverse) = scale_of(max);
        let keep = if max.is_finite() { !0 } else { 0 };
        let codes = |v| _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v, _mm512_set1_ps(inverse)));
        let (low, high) = (codes(low), codes(high));
        // SAFETY: the caller's promise; a group's codes are 32 bytes.
        unsafe {
            _mm_storeu_si128(out.codes(group).cast(), _mm512_cvtepi32_epi8(low));
            _mm_storeu_si128(out.codes(group).add(16).cast(), _mm512_cvtepi32_epi8(high));
            out.write_factors(group, scale, [_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(high)]);
        }
    }
}

/// The first sixteen of `x`; where there are fewer, zeros follow.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn load_floats(x: &[f32]) -> __m512 {
    let mask = if x.len() >= 16 { !0 } else { (1 << x.len()) - 1 };
    // SAFETY: the mask leaves lanes of `x` only.
    unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) }
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
