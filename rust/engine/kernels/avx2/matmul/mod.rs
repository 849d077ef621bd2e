//! The matrix kernels in AVX2: a panel's 16 rows are two registers of 8.

mod float32;
mod int8;
mod int8_rows;
mod unpack;

use std::arch::x86_64::*;

use crate::kernels::matmul::{
    GROUP, Int8Kernels, Lanes, MatmulTier, RowMut, UnpackedInt8, WIDE_GROUP, scale_of, start_of,
};

pub static TIER: MatmulTier = MatmulTier {
    quantize,
    quantize_wide,
    unpack: unpack::unpack,
    int8: Int8Kernels::Unpacked(UnpackedInt8 {
        tile: int8::int8_tile,
        few_rows: Some(int8::int8_panels),
        by_row: int8_rows::panels,
    }),
    decode: float32::decode,
    widen: float32::widen,
    columns: unpack::columns,
    add_columns: unpack::add_columns,
    dense_panels: Some(float32::dense_panels),
    f32_tile: float32::f32_tile,
    bf16: None,
};

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize(x: &[f32], out: RowMut) {
    for (group, x) in x.chunks(GROUP).enumerate() {
        let values = load_group(x);
        let max = f32::from_bits(greatest(magnitudes(values)));
        // SAFETY: the caller's promise.
        unsafe { write_group(values, max, group, out) };
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize_wide(x: &[f32], out: RowMut) {
    for (wide, x) in x.chunks(WIDE_GROUP).enumerate() {
        let (low, high) = (load_group(x), load_group(x.get(GROUP..).unwrap_or_default()));
        let max = f32::from_bits(greatest(_mm256_max_epu32(magnitudes(low), magnitudes(high))));
        // SAFETY: the caller's promise.
        unsafe {
            let mut sum = write_group(low, max, 2 * wide, out);
            if x.len() > GROUP {
                sum += write_group(high, max, 2 * wide + 1, out);
            }
            *out.wide_starts.add(wide) = start_of(sum);
        }
    }
}

/// The greatest are those of the numbers: as integers, magnitudes compare as they do, infinity and NaN highest.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn magnitudes(values: [__m256; 4]) -> __m256i {
    let magnitude = |v| _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fff_ffff));
    let [a, b, c, d] = values.map(magnitude);
    _mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d))
}

/// A group whose scale is that of the largest magnitude `max`. Returns the sum of its codes.
///
/// # Safety
/// `out` has the group, and it is the caller's alone.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn write_group(values: [__m256; 4], max: f32, group: usize, out: RowMut) -> i32 {
    let (scale, inverse) = scale_of(max);
    let keep = _mm256_set1_epi32(if max.is_finite() { !0 } else { 0 });
    let inverse = _mm256_set1_ps(inverse);
    let codes = values.map(|v| _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(v, inverse)), keep));
    let sums = half_sums(codes);
    // SAFETY: the caller's promise; a group's codes are 32 bytes.
    unsafe {
        _mm256_storeu_si256(out.codes(group).cast(), narrow(codes));
        out.write_factors(group, scale, sums);
    }
    sums[0] + sums[1]
}

/// The first 32 of `x`; where there are fewer, zeros follow.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_group(x: &[f32]) -> [__m256; 4] {
    let mut tail = [0.0; GROUP];
    let whole = match x.first_chunk::<GROUP>() {
        Some(whole) => whole,
        None => {
            tail[..x.len()].copy_from_slice(x);
            &tail
        }
    };
    // SAFETY: 32 floats.
    [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(whole.as_ptr().add(at)) })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn greatest(v: __m256i) -> u32 {
    let v = _mm_max_epu32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_max_epu32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    _mm_cvtsi128_si32(_mm_max_epu32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v))) as u32
}

/// 32 numbers that fit bytes, as bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn narrow(codes: [__m256i; 4]) -> __m256i {
    let [a, b, c, d] = codes;
    // Packing works in halves of a register: quadruples come out as a0 b0 c0 d0 a1 b1 c1 d1.
    let bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// The sums of the first and of the last sixteen.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn half_sums(codes: [__m256i; 4]) -> [i32; 2] {
    let [a, b, c, d] = codes;
    let pairs = _mm256_hadd_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    let sums = _mm256_hadd_epi32(pairs, pairs);
    let sums = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    [_mm_cvtsi128_si32(sums), _mm_extract_epi32::<1>(sums)]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load8(lanes: &Lanes, half: usize) -> __m256 {
    // SAFETY: half is 0 or 1.
    unsafe { _mm256_loadu_ps(lanes.as_ptr().add(8 * half)) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store8(lanes: &mut Lanes, half: usize, v: __m256) {
    // SAFETY: half is 0 or 1.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr().add(8 * half), v) }
}
