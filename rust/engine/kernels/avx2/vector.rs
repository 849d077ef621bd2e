//! Sixteen floats in two registers.

use std::arch::x86_64::*;

use crate::kernels::simd::{F32x16, I32x16, WIDTH};

#[derive(Clone, Copy)]
pub(super) struct Vector(__m256, __m256);

/// Runs intrinsics of this tier.
macro_rules! tier {
    ($e:expr) => {{
        // SAFETY: values of `Vector` are made only in functions that are compiled for this tier, which
        // `Kernels` calls after it has seen that the machine has it. Where memory is touched, the trait's
        // contract or the slice makes the lanes that the mask leaves valid.
        unsafe { $e }
    }};
}

/// Applies an intrinsic to both halves.
macro_rules! both {
    ($f:ident, $($x:expr),+) => { Vector(tier!($f($($x.0),+)), tier!($f($($x.1),+))) };
}

/// All bits set in the lanes before `n`, of lanes from..from + 8.
#[inline(always)]
fn before(n: usize, from: i32) -> __m256i {
    let lanes = tier!(_mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(from)));
    tier!(_mm256_cmpgt_epi32(_mm256_set1_epi32(n.min(WIDTH) as i32), lanes))
}

/// All bits set in the lanes begin .. end, of lanes from..from + 8.
#[inline(always)]
fn between(begin: usize, end: usize, from: i32) -> __m256 {
    tier!(_mm256_castsi256_ps(_mm256_andnot_si256(before(begin, from), before(end, from))))
}

/// The first `n` of sixteen words, then zeros.
///
/// # Safety
/// `p` is valid for reading `n` words, sixteen at most.
#[inline(always)]
unsafe fn load_words(p: *const i32, n: usize) -> (__m256i, __m256i) {
    if n >= WIDTH {
        tier!((_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.wrapping_add(8).cast())))
    } else {
        tier!((_mm256_maskload_epi32(p, before(n, 0)), _mm256_maskload_epi32(p.wrapping_add(8), before(n, 8))))
    }
}

/// E4M3 as f16 that are 2^8 times too small: the same bits, since an exponent of four bits fits one of five.
#[inline(always)]
fn e4m3_to_f16(codes: __m128i) -> __m256i {
    // The sign fills the high half: it and the seven bits move up, and its copy in the exponent is cleared.
    let moved = tier!(_mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(codes)));
    let halves = tier!(_mm256_and_si256(moved, _mm256_set1_epi16(!0x4000)));
    let sizes = tier!(_mm256_and_si256(moved, _mm256_set1_epi16(0x3fff)));
    let nan = tier!(_mm256_cmpeq_epi16(sizes, _mm256_set1_epi16(0x7f << 7)));
    tier!(_mm256_or_si256(halves, nan))
}

impl F32x16 for Vector {
    const REGISTERS: usize = 8;

    type Integers = Integers;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        let half = tier!(_mm256_set1_ps(x));
        Self(half, half)
    }

    #[inline(always)]
    fn read(x: &[f32]) -> Self {
        let (low, high) = tier!(load_words(x.as_ptr().cast(), x.len()));
        Self(tier!(_mm256_castsi256_ps(low)), tier!(_mm256_castsi256_ps(high)))
    }

    #[inline(always)]
    fn write(self, x: &mut [f32]) {
        let p = x.as_mut_ptr();
        if x.len() >= WIDTH {
            tier!(self.store(p));
        } else {
            tier!(_mm256_maskstore_ps(p, before(x.len(), 0), self.0));
            tier!(_mm256_maskstore_ps(p.wrapping_add(8), before(x.len(), 8), self.1));
        }
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(tier!(_mm256_loadu_ps(p)), tier!(_mm256_loadu_ps(p.add(8))))
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        tier!(_mm256_storeu_ps(p, self.0));
        tier!(_mm256_storeu_ps(p.add(8), self.1));
    }

    #[inline(always)]
    unsafe fn load_bf16_even(p: *const u8) -> Self {
        let (low, high) = tier!(load_words(p.cast(), WIDTH));
        Self(
            tier!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(low))),
            tier!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(high))),
        )
    }

    #[inline(always)]
    unsafe fn load_bf16_odd(p: *const u8) -> Self {
        let (low, high) = tier!(load_words(p.cast(), WIDTH));
        let high_half = tier!(_mm256_set1_epi32(!0xffff));
        Self(
            tier!(_mm256_castsi256_ps(_mm256_and_si256(low, high_half))),
            tier!(_mm256_castsi256_ps(_mm256_and_si256(high, high_half))),
        )
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self {
        let half = |p: *const u8| {
            let words = tier!(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())));
            tier!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)))
        };
        Self(half(p), half(p.wrapping_add(16)))
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        let half = |p: *const u8| tier!(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())));
        Self(half(p), half(p.wrapping_add(16)))
    }

    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self {
        let halves = tier!(e4m3_to_f16(_mm_loadu_si128(p.cast())));
        let floats = Self(
            tier!(_mm256_cvtph_ps(_mm256_castsi256_si128(halves))),
            tier!(_mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves))),
        );
        floats.mul(Self::splat(256.0))
    }

    #[inline(always)]
    unsafe fn load_e4m3_pairs(p: *const u8) -> [Self; 2] {
        let codes = tier!(_mm256_loadu_si256(p.cast()));
        // An exponent of four bits fits one of five: sign, a bit that is zero, and the seven others.
        [tier!(_mm256_slli_epi16::<8>(codes)), codes].map(|high| {
            let halves = tier!(_mm256_and_si256(_mm256_srai_epi16::<1>(high), _mm256_set1_epi16(!0x407f)));
            Self(
                tier!(_mm256_cvtph_ps(_mm256_castsi256_si128(halves))),
                tier!(_mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves))),
            )
        })
    }

    #[inline(always)]
    unsafe fn store_i16(self, p: *mut i16) {
        // Packing goes by halves of registers.
        let packed = tier!(_mm256_packs_epi32(_mm256_cvtps_epi32(self.0), _mm256_cvtps_epi32(self.1)));
        tier!(_mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)));
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        both!(_mm256_add_ps, self, other)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        both!(_mm256_sub_ps, self, other)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        both!(_mm256_mul_ps, self, other)
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        both!(_mm256_div_ps, self, other)
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        both!(_mm256_fmadd_ps, self, factor, addend)
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        both!(_mm256_max_ps, self, other)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        both!(_mm256_min_ps, self, other)
    }

    #[inline(always)]
    fn abs(self) -> Self {
        let sign = Self::splat(-0.0);
        both!(_mm256_andnot_ps, sign, self)
    }

    #[inline(always)]
    fn round(self) -> Self {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        Self(tier!(_mm256_round_ps::<NEAREST>(self.0)), tier!(_mm256_round_ps::<NEAREST>(self.1)))
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, n: Self) -> Self {
        // In two steps: 2^128 alone is not a float.
        let half = n.mul(Self::splat(0.5)).round();
        self.mul(half.power_of_two()).mul(n.sub(half).power_of_two())
    }

    #[inline(always)]
    fn low_bits_to_exponent(self) -> Self {
        let shift = |x| tier!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(x))));
        Self(shift(self.0), shift(self.1))
    }

    #[inline(always)]
    fn select_below(self, bound: Self, then: Self, otherwise: Self) -> Self {
        let below =
            (tier!(_mm256_cmp_ps::<_CMP_LT_OQ>(self.0, bound.0)), tier!(_mm256_cmp_ps::<_CMP_LT_OQ>(self.1, bound.1)));
        both!(_mm256_blendv_ps, otherwise, then, below)
    }

    #[inline(always)]
    fn keep_lanes(self, begin: usize, end: usize, other: Self) -> Self {
        let kept = (between(begin, end, 0), between(begin, end, 8));
        both!(_mm256_blendv_ps, other, self, kept)
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let x = tier!(_mm256_add_ps(self.0, self.1));
        let x = tier!(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x)));
        let x = tier!(_mm_add_ps(x, _mm_movehl_ps(x, x)));
        tier!(_mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x))))
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        let x = tier!(_mm256_max_ps(self.0, self.1));
        let x = tier!(_mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x)));
        let x = tier!(_mm_max_ps(x, _mm_movehl_ps(x, x)));
        tier!(_mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x))))
    }
}

impl Vector {
    /// 2^self for integral lanes in -126 ..= 127.
    #[inline(always)]
    fn power_of_two(self) -> Self {
        let bits = |x| tier!(_mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(x), _mm256_set1_epi32(127))));
        Self(tier!(_mm256_castsi256_ps(bits(self.0))), tier!(_mm256_castsi256_ps(bits(self.1))))
    }
}

/// Sixteen integers in two registers.
#[derive(Clone, Copy)]
pub(super) struct Integers(__m256i, __m256i);

impl I32x16 for Integers {
    type Floats = Vector;

    #[inline(always)]
    fn splat(x: i32) -> Self {
        let half = tier!(_mm256_set1_epi32(x));
        Self(half, half)
    }

    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        let (low, high) = tier!(load_words(p, WIDTH));
        Self(low, high)
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        tier!(_mm256_storeu_si256(p.cast(), self.0));
        tier!(_mm256_storeu_si256(p.add(8).cast(), self.1));
    }

    #[inline(always)]
    unsafe fn load_i8_pairs(p: *const u8) -> Self {
        let half = |p: *const u8| tier!(_mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())));
        Self(half(p), half(p.wrapping_add(16)))
    }

    #[inline(always)]
    fn add_products(self, a: Self, b: Self) -> Self {
        let half = |sum, a, b| tier!(_mm256_add_epi32(sum, _mm256_madd_epi16(a, b)));
        Self(half(self.0, a.0, b.0), half(self.1, a.1, b.1))
    }

    #[inline(always)]
    fn to_floats(self) -> Vector {
        Vector(tier!(_mm256_cvtepi32_ps(self.0)), tier!(_mm256_cvtepi32_ps(self.1)))
    }
}
