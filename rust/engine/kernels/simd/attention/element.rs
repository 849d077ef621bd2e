//! What the cache holds, and how it meets queries and weights.
//!
//! A *panel* is (depth, 16) elements, two rows of the depth interleaved: a block's keys (head_dim, 16 positions),
//! or sixteen dimensions of its values (16 positions, 16).

use crate::kernels::simd::{F32x16, I32x16};

/// A type of key and value. See `KvShape` for the layouts.
pub(super) trait Element<S: F32x16> {
    /// Bytes of a panel from a pair of rows to the next.
    const PAIR_BYTES: usize;
    /// What multiplies a row of a panel.
    type Factor: Copy;
    /// Two rows of a panel, widened.
    type Pair: Copy;
    /// Sixteen sums of products.
    type Sum: Copy;

    fn zero() -> Self::Sum;

    /// # Safety
    /// `p` is valid for reading 16 words.
    unsafe fn load_sum(p: *const f32) -> Self::Sum;

    /// # Safety
    /// `p` is valid for writing 16 words.
    unsafe fn store_sum(sum: Self::Sum, p: *mut f32);

    /// # Safety
    /// `p` is valid for reading `PAIR_BYTES`.
    unsafe fn load_pair(p: *const u8) -> Self::Pair;

    /// sum + factors[0] · first row + factors[1] · second row, in this order.
    ///
    /// # Safety
    /// `factors` is valid for reading two.
    unsafe fn add_pair(sum: Self::Sum, factors: *const Self::Factor, pair: Self::Pair) -> Self::Sum;

    /// sum + factor · one row of the pair: the first or the second.
    fn add_row(sum: Self::Sum, factor: Self::Factor, pair: Self::Pair, row: usize) -> Self::Sum;

    /// Rounds to factors.
    ///
    /// # Safety
    /// `p` is valid for writing 16 of them.
    unsafe fn store_factors(x: S, p: *mut Self::Factor);
}

/// The items of `Element` for which products are floats.
macro_rules! float_sums {
    ($S:ident) => {
        type Sum = $S;

        #[inline(always)]
        fn zero() -> $S {
            $S::splat(0.0)
        }

        #[inline(always)]
        unsafe fn load_sum(p: *const f32) -> $S {
            // SAFETY: the caller's promise.
            unsafe { $S::load(p) }
        }

        #[inline(always)]
        unsafe fn store_sum(sum: $S, p: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { sum.store(p) }
        }
    };
}
pub(super) use float_sums;

/// Elements that widen to floats.
pub(in crate::kernels) trait FloatElement {
    const PAIR_BYTES: usize;
    /// What a widened one counts.
    const UNIT: f32 = 1.0;

    /// # Safety
    /// `p` is valid for reading `PAIR_BYTES`.
    unsafe fn widen<S: F32x16>(p: *const u8) -> [S; 2];
}

pub(super) struct F32Element;

impl FloatElement for F32Element {
    const PAIR_BYTES: usize = 128;

    #[inline(always)]
    unsafe fn widen<S: F32x16>(p: *const u8) -> [S; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::load(p.cast()), S::load(p.add(64).cast())] }
    }
}

pub(in crate::kernels) struct Bf16Element;

impl FloatElement for Bf16Element {
    const PAIR_BYTES: usize = 64;

    #[inline(always)]
    unsafe fn widen<S: F32x16>(p: *const u8) -> [S; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::load_bf16_even(p), S::load_bf16_odd(p)] }
    }
}

pub(super) struct F16Element;

impl FloatElement for F16Element {
    const PAIR_BYTES: usize = 64;

    #[inline(always)]
    unsafe fn widen<S: F32x16>(p: *const u8) -> [S; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::load_f16(p), S::load_f16(p.add(32))] }
    }
}

pub(in crate::kernels) struct Fp8Element;

impl FloatElement for Fp8Element {
    const PAIR_BYTES: usize = 32;
    const UNIT: f32 = 256.0;

    #[inline(always)]
    unsafe fn widen<S: F32x16>(p: *const u8) -> [S; 2] {
        // SAFETY: the caller's promise.
        unsafe { S::load_e4m3_pairs(p) }
    }
}

impl<S: F32x16, T: FloatElement> Element<S> for T {
    const PAIR_BYTES: usize = T::PAIR_BYTES;
    type Factor = f32;
    type Pair = [S; 2];
    float_sums!(S);

    #[inline(always)]
    unsafe fn load_pair(p: *const u8) -> [S; 2] {
        // SAFETY: the caller's promise.
        unsafe { T::widen(p) }
    }

    #[inline(always)]
    unsafe fn add_pair(sum: S, factors: *const f32, pair: [S; 2]) -> S {
        // SAFETY: the caller's promise.
        let [first, second] = unsafe { [S::splat(*factors), S::splat(*factors.add(1))] };
        second.mul_add(pair[1], first.mul_add(pair[0], sum))
    }

    #[inline(always)]
    fn add_row(sum: S, factor: f32, pair: [S; 2], row: usize) -> S {
        S::splat(factor).mul_add(pair[row], sum)
    }

    #[inline(always)]
    unsafe fn store_factors(x: S, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { x.store(p) }
    }
}

/// Integers meet integers: sums are exact, and the scales of both sides are applied to them.
pub(super) struct Int8Element;

impl<S: F32x16> Element<S> for Int8Element {
    const PAIR_BYTES: usize = 32;
    type Factor = i16;
    type Pair = S::Integers;
    type Sum = S::Integers;

    #[inline(always)]
    fn zero() -> S::Integers {
        S::Integers::splat(0)
    }

    #[inline(always)]
    unsafe fn load_sum(p: *const f32) -> S::Integers {
        // SAFETY: the caller's promise.
        unsafe { S::Integers::load(p.cast()) }
    }

    #[inline(always)]
    unsafe fn store_sum(sum: S::Integers, p: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { sum.store(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load_pair(p: *const u8) -> S::Integers {
        // SAFETY: the caller's promise.
        unsafe { S::Integers::load_i8_pairs(p) }
    }

    #[inline(always)]
    unsafe fn add_pair(sum: S::Integers, factors: *const i16, pair: S::Integers) -> S::Integers {
        // SAFETY: the caller's promise.
        let factors = unsafe { factors.cast::<i32>().read_unaligned() };
        sum.add_products(pair, S::Integers::splat(factors))
    }

    #[inline(always)]
    fn add_row(sum: S::Integers, factor: i16, pair: S::Integers, row: usize) -> S::Integers {
        let alone = i32::from(factor as u16) << (16 * row);
        sum.add_products(pair, S::Integers::splat(alone))
    }

    #[inline(always)]
    unsafe fn store_factors(x: S, p: *mut i16) {
        // SAFETY: the caller's promise.
        unsafe { x.store_i16(p) }
    }
}
