//! Kernels written once for every vector tier, over sixteen floats at a time. A tier's module compiles
//! them with its instructions enabled; since both round alike, AVX2 and AVX-512 give the same bits.

pub(super) mod attention;
pub(super) mod dense;
pub(super) mod elementwise;
pub(super) mod math;
pub(super) mod outliers;

use std::arch::x86_64::{_MM_HINT_NTA, _MM_HINT_T0, _mm_prefetch};

/// Floats per vector.
pub(super) const WIDTH: usize = 16;

/// Sixteen floats. Everything generic over this trait is `inline(always)`: it takes the instruction set of
/// the `target_feature` function that it ends up in, the only place where values of the type may be made.
pub(super) trait F32x16: Copy {
    /// Values of this type that fit in registers at once.
    const REGISTERS: usize;

    type Integers: I32x16<Floats = Self>;

    fn splat(x: f32) -> Self;

    /// The first sixteen of `x`; where there are fewer, zeros follow.
    fn read(x: &[f32]) -> Self;

    /// Writes as many as `x` holds, sixteen at most.
    fn write(self, x: &mut [f32]);

    /// # Safety
    /// `p` is valid for reading 16 floats.
    unsafe fn load(p: *const f32) -> Self;

    /// # Safety
    /// `p` is valid for writing 16 floats.
    unsafe fn store(self, p: *mut f32);

    /// The elements of even index of 32 bf16, widened.
    ///
    /// # Safety
    /// `p` is valid for reading 64 bytes.
    unsafe fn load_bf16_even(p: *const u8) -> Self;

    /// The elements of odd index.
    ///
    /// # Safety
    /// As for `load_bf16_even`.
    unsafe fn load_bf16_odd(p: *const u8) -> Self;

    /// Sixteen bf16, widened.
    ///
    /// # Safety
    /// `p` is valid for reading 32 bytes.
    unsafe fn load_bf16(p: *const u8) -> Self;

    /// Sixteen f16, widened.
    ///
    /// # Safety
    /// `p` is valid for reading 32 bytes.
    unsafe fn load_f16(p: *const u8) -> Self;

    /// Sixteen numbers of E4M3, widened.
    ///
    /// # Safety
    /// `p` is valid for reading 16 bytes.
    unsafe fn load_e4m3(p: *const u8) -> Self;

    /// The elements of even index of 32 numbers of E4M3, and those of odd index, divided by 2^8. None may
    /// be NaN.
    ///
    /// # Safety
    /// `p` is valid for reading 32 bytes.
    unsafe fn load_e4m3_pairs(p: *const u8) -> [Self; 2];

    /// Rounds to the nearest i16, ties to even; what has none becomes the least or the greatest.
    ///
    /// # Safety
    /// `p` is valid for writing 16 of them.
    unsafe fn store_i16(self, p: *mut i16);

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;

    /// self * factor + addend, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// The greater; `other` where `self` is NaN.
    fn max(self, other: Self) -> Self;

    /// The smaller; `other` where either is NaN.
    fn min(self, other: Self) -> Self;

    fn abs(self) -> Self;

    /// To the nearest integer, ties to even.
    fn round(self) -> Self;

    /// self * 2^n for integral `n` in -126 ..= 128.
    fn scale_by_power_of_two(self, n: Self) -> Self;

    /// The power of two whose biased exponent is in the low eight bits of self; the ninth is zero.
    fn low_bits_to_exponent(self) -> Self;

    /// `then` where self < bound, else `otherwise` (so too for NaN).
    fn select_below(self, bound: Self, then: Self, otherwise: Self) -> Self;

    /// Lanes first .. end of self, `other` elsewhere.
    fn keep_lanes(self, first: usize, end: usize, other: Self) -> Self;

    /// The sum in a fixed order: lanes 8 apart, then 4, 2, 1.
    fn sum(self) -> f32;

    /// The greatest; NaN lanes are passed over where they can be.
    fn greatest(self) -> f32;
}

/// Sixteen integers, or sixteen pairs of i16 of which the first lies in the low half. Sums wrap around.
pub(super) trait I32x16: Copy {
    type Floats: F32x16;

    fn splat(x: i32) -> Self;

    /// # Safety
    /// `p` is valid for reading 16 integers.
    unsafe fn load(p: *const i32) -> Self;

    /// # Safety
    /// `p` is valid for writing 16 integers.
    unsafe fn store(self, p: *mut i32);

    /// Sixteen pairs of i8, widened.
    ///
    /// # Safety
    /// `p` is valid for reading 32 bytes.
    unsafe fn load_i8_pairs(p: *const u8) -> Self;

    /// self + a.first * b.first + a.second * b.second, of pairs.
    fn add_products(self, a: Self, b: Self) -> Self;

    fn to_floats(self) -> Self::Floats;
}

/// Sixteen sums of products of bf16.
pub(super) trait Bf16x16: F32x16 {
    /// Sixteen pairs of bf16, of which the first lies in the low half.
    type Pairs: Copy;

    /// # Safety
    /// `p` is valid for reading 64 bytes.
    unsafe fn load_bf16_pairs(p: *const u8) -> Self::Pairs;

    /// Sixteen pairs of numbers of E4M3, divided by 2^8. None may be NaN.
    ///
    /// # Safety
    /// `p` is valid for reading 32 bytes.
    unsafe fn load_e4m3_as_bf16_pairs(p: *const u8) -> Self::Pairs;

    /// The same pair everywhere.
    fn splat_bf16_pair(pair: u32) -> Self::Pairs;

    /// Zeros in place of the second elements of pairs, or of the first.
    fn keep_element(pairs: Self::Pairs, element: usize) -> Self::Pairs;

    /// self + a.first * b.first + a.second * b.second, rounded as the machine does it.
    fn add_bf16_products(self, a: Self::Pairs, b: Self::Pairs) -> Self;

    /// Rounds to the nearest bf16, ties to even.
    ///
    /// # Safety
    /// `p` is valid for writing 16 of them.
    unsafe fn store_bf16(self, p: *mut u16);
}

/// Asks for the cache lines that `bytes` from `p` on begin in. Any address will do.
#[inline(always)]
pub(super) fn prefetch(p: *const u8, bytes: usize) {
    ask::<_MM_HINT_T0>(p, bytes);
}

/// The same for what is read once: caches beyond the first need not keep it, nor take it over when the first has to give it up,
/// which leaves them more of their time for what comes.
#[inline(always)]
pub(super) fn prefetch_once(p: *const u8, bytes: usize) {
    ask::<_MM_HINT_NTA>(p, bytes);
}

#[inline(always)]
fn ask<const HINT: i32>(p: *const u8, bytes: usize) {
    for at in (0..bytes).step_by(64) {
        // SAFETY: a prefetch touches no memory that the program can see.
        unsafe { _mm_prefetch::<HINT>(p.wrapping_add(at).cast()) };
    }
}

/// Hides where a pointer came from. LLVM would otherwise hoist the loads of all steps of an unrolled loop
/// above it, and spill the accumulators.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written")]
pub(super) fn opaque<T>(mut ptr: *const T) -> *const T {
    // SAFETY: the assembly is empty.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) ptr, options(pure, nomem, nostack, preserves_flags)) };
    ptr
}
