//! Sixteen floats in one register.

use std::arch::x86_64::*;

use crate::kernels::simd::{Bf16x16, F32x16, I32x16, WIDTH};

#[derive(Clone, Copy)]
pub(super) struct Vector(__m512);

/// Runs intrinsics of this tier.
macro_rules! tier {
    ($e:expr) => {{
        // SAFETY: values of `Vector` are made only in functions that are compiled for this tier, which
        // `Kernels` calls after it has seen that the machine has it. Where memory is touched, the trait's
        // contract or the slice makes the lanes that the mask leaves valid.
        unsafe { $e }
    }};
}

/// The first `n` lanes, sixteen at most.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n >= WIDTH { !0 } else { (1 << n) - 1 }
}

/// E4M3 as f16 that are 2^8 times too small: the same bits, since an exponent of four bits fits one of five.
#[inline(always)]
fn e4m3_to_f16(codes: __m128i) -> __m256i {
    // The sign fills the high half: it and the seven bits move up, and its copy in the exponent is cleared.
    let moved = tier!(_mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(codes)));
    let halves = tier!(_mm256_and_si256(moved, _mm256_set1_epi16(!0x4000)));
    let sizes = tier!(_mm256_and_si256(moved, _mm256_set1_epi16(0x3fff)));
    let nan = tier!(_mm256_cmpeq_epi16_mask(sizes, _mm256_set1_epi16(0x7f << 7)));
    tier!(_mm256_mask_set1_epi16(halves, nan, !0))
}

/// What an exponent of E4M3 becomes one of bf16 with, for numbers that are 2^8 times too small.
const E4M3_BIAS: i16 = (127 - 7 - 8) << 7;

/// By the last bits of a subnormal number of E4M3: how its bf16, 2^8 times too small, differs from the bits moved up by 4.
#[repr(align(64))]
struct SmallE4m3([u16; 32]);

static SMALL_E4M3: SmallE4m3 = {
    let mut table = [0; 32];
    let mut mantissa = 1;
    while mantissa < 8 {
        let number = mantissa as f32 / (1 << (9 + 8)) as f32;
        table[mantissa] = (number.to_bits() >> 16) as u16 ^ (mantissa << 4) as u16;
        mantissa += 1;
    }
    SmallE4m3(table)
};

impl F32x16 for Vector {
    const REGISTERS: usize = 32;

    type Integers = Integers;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self(tier!(_mm512_set1_ps(x)))
    }

    #[inline(always)]
    fn read(x: &[f32]) -> Self {
        Self(tier!(_mm512_maskz_loadu_ps(first(x.len()), x.as_ptr())))
    }

    #[inline(always)]
    fn write(self, x: &mut [f32]) {
        tier!(_mm512_mask_storeu_ps(x.as_mut_ptr(), first(x.len()), self.0))
    }

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        Self(tier!(_mm512_loadu_ps(p)))
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        tier!(_mm512_storeu_ps(p, self.0))
    }

    #[inline(always)]
    unsafe fn load_bf16_even(p: *const u8) -> Self {
        Self(tier!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(p.cast())))))
    }

    #[inline(always)]
    unsafe fn load_bf16_odd(p: *const u8) -> Self {
        let high_half = tier!(_mm512_set1_epi32(!0xffff));
        Self(tier!(_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p.cast()), high_half))))
    }

    #[inline(always)]
    unsafe fn load_bf16(p: *const u8) -> Self {
        let words = tier!(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())));
        Self(tier!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))))
    }

    #[inline(always)]
    unsafe fn load_f16(p: *const u8) -> Self {
        Self(tier!(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast()))))
    }

    #[inline(always)]
    unsafe fn load_e4m3(p: *const u8) -> Self {
        let halves = tier!(e4m3_to_f16(_mm_loadu_si128(p.cast())));
        Self(tier!(_mm512_cvtph_ps(halves))).mul(Self::splat(256.0))
    }

    #[inline(always)]
    unsafe fn load_e4m3_pairs(p: *const u8) -> [Self; 2] {
        let codes = tier!(_mm256_loadu_si256(p.cast()));
        // An exponent of four bits fits one of five: sign, a bit that is zero, and the seven others.
        [tier!(_mm256_slli_epi16::<8>(codes)), codes].map(|high| {
            let halves = tier!(_mm256_and_si256(_mm256_srai_epi16::<1>(high), _mm256_set1_epi16(!0x407f)));
            Self(tier!(_mm512_cvtph_ps(halves)))
        })
    }

    #[inline(always)]
    unsafe fn store_i16(self, p: *mut i16) {
        let packed = tier!(_mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(self.0)));
        tier!(_mm256_storeu_si256(p.cast(), packed));
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(tier!(_mm512_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(tier!(_mm512_sub_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(tier!(_mm512_mul_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(tier!(_mm512_div_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(tier!(_mm512_fmadd_ps(self.0, factor.0, addend.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(tier!(_mm512_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(tier!(_mm512_min_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(tier!(_mm512_abs_ps(self.0)))
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(tier!(_mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0)))
    }

    #[inline(always)]
    fn scale_by_power_of_two(self, n: Self) -> Self {
        Self(tier!(_mm512_scalef_ps(self.0, n.0)))
    }

    #[inline(always)]
    fn low_bits_to_exponent(self) -> Self {
        Self(tier!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(self.0)))))
    }

    #[inline(always)]
    fn select_below(self, bound: Self, then: Self, otherwise: Self) -> Self {
        let below = tier!(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, bound.0));
        Self(tier!(_mm512_mask_mov_ps(otherwise.0, below, then.0)))
    }

    #[inline(always)]
    fn keep_lanes(self, begin: usize, end: usize, other: Self) -> Self {
        Self(tier!(_mm512_mask_mov_ps(other.0, first(end) & !first(begin), self.0)))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        let high = tier!(_mm512_extractf32x8_ps::<1>(self.0));
        let x = tier!(_mm256_add_ps(_mm512_castps512_ps256(self.0), high));
        let x = tier!(_mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x)));
        let x = tier!(_mm_add_ps(x, _mm_movehl_ps(x, x)));
        tier!(_mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x))))
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        let high = tier!(_mm512_extractf32x8_ps::<1>(self.0));
        let x = tier!(_mm256_max_ps(_mm512_castps512_ps256(self.0), high));
        let x = tier!(_mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x)));
        let x = tier!(_mm_max_ps(x, _mm_movehl_ps(x, x)));
        tier!(_mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x))))
    }
}

/// A vector whose machine multiplies bf16 too.
impl Bf16x16 for Vector {
    type Pairs = Pairs;

    #[inline(always)]
    unsafe fn load_bf16_pairs(p: *const u8) -> Pairs {
        Pairs(tier!(_mm512_loadu_si512(p.cast())))
    }

    #[inline(always)]
    unsafe fn load_e4m3_as_bf16_pairs(p: *const u8) -> Pairs {
        // The sign fills the high half. Moved up, the exponent ends where that of bf16 does, whose upper bits are
        // those of a bias; but what has no exponent in E4M3 has one in bf16.
        let words = tier!(_mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast())));
        let moved = tier!(_mm512_slli_epi16::<4>(words));
        let small = tier!(_mm512_testn_epi16_mask(words, _mm512_set1_epi16(0x78)));
        // SAFETY: the table is 64 bytes.
        let table = unsafe { _mm512_loadu_si512(SMALL_E4M3.0.as_ptr().cast()) };
        let upper = tier!(_mm512_mask_permutexvar_epi16(_mm512_set1_epi16(E4M3_BIAS), small, words, table));
        const AND_XOR: i32 = 0b0110_1010;
        Pairs(tier!(_mm512_ternarylogic_epi32::<AND_XOR>(moved, _mm512_set1_epi16(!0x780f), upper)))
    }

    #[inline(always)]
    fn splat_bf16_pair(pair: u32) -> Pairs {
        Pairs(tier!(_mm512_set1_epi32(pair as i32)))
    }

    #[inline(always)]
    fn keep_element(pairs: Pairs, element: usize) -> Pairs {
        let mask = tier!(_mm512_set1_epi32((0xffff_u32 << (16 * element)) as i32));
        Pairs(tier!(_mm512_and_si512(pairs.0, mask)))
    }

    #[inline(always)]
    fn add_bf16_products(self, a: Pairs, b: Pairs) -> Self {
        // SAFETY: sixteen pairs of bf16 are any 64 bytes.
        let [a, b]: [__m512bh; 2] = [a, b].map(|pairs| unsafe { std::mem::transmute(pairs.0) });
        Self(tier!(_mm512_dpbf16_ps(self.0, a, b)))
    }

    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16) {
        let rounded = tier!(_mm512_cvtneps_pbh(self.0));
        // SAFETY: sixteen bf16 are 32 bytes.
        let rounded: __m256i = unsafe { std::mem::transmute(rounded) };
        tier!(_mm256_storeu_si256(p.cast(), rounded));
    }
}

/// Sixteen pairs of bf16 in one register.
#[derive(Clone, Copy)]
pub(super) struct Pairs(__m512i);

/// Sixteen integers in one register.
#[derive(Clone, Copy)]
pub(super) struct Integers(__m512i);

impl I32x16 for Integers {
    type Floats = Vector;

    #[inline(always)]
    fn splat(x: i32) -> Self {
        Self(tier!(_mm512_set1_epi32(x)))
    }

    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        Self(tier!(_mm512_loadu_si512(p.cast())))
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        tier!(_mm512_storeu_si512(p.cast(), self.0));
    }

    #[inline(always)]
    unsafe fn load_i8_pairs(p: *const u8) -> Self {
        Self(tier!(_mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast()))))
    }

    #[inline(always)]
    fn add_products(self, a: Self, b: Self) -> Self {
        Self(tier!(_mm512_dpwssd_epi32(self.0, a.0, b.0)))
    }

    #[inline(always)]
    fn to_floats(self) -> Vector {
        Vector(tier!(_mm512_cvtepi32_ps(self.0)))
    }
}
