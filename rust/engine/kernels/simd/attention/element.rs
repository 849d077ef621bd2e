//! What the cache holds, and how it widens to floats.

use crate::kernels::simd::F32x16;

/// A type of key and value. See `KvShape` for the layouts.
pub(super) trait Element {
    /// Bytes of keys from a pair of dimensions to the next.
    const KEY_PAIR_BYTES: usize;
    /// Positions that share a row of values.
    const POSITIONS_PER_ROW: usize;

    /// Two dimensions of a block's sixteen positions.
    ///
    /// # Safety
    /// `p` is valid for reading `KEY_PAIR_BYTES`.
    unsafe fn key_pair<S: F32x16>(p: *const u8) -> (S, S);

    /// `len` dimensions (16 at most, then zeros) of a position whose parity is `ODD`, from its row of values.
    ///
    /// # Safety
    /// `p` is valid for reading `4 * len` bytes.
    unsafe fn value<S: F32x16, const ODD: bool>(p: *const u8, len: usize) -> S;
}

pub(super) struct F32Element;

impl Element for F32Element {
    const KEY_PAIR_BYTES: usize = 128;
    const POSITIONS_PER_ROW: usize = 1;

    #[inline(always)]
    unsafe fn key_pair<S: F32x16>(p: *const u8) -> (S, S) {
        // SAFETY: the caller's promise.
        unsafe { (S::load(p.cast()), S::load(p.add(64).cast())) }
    }

    #[inline(always)]
    unsafe fn value<S: F32x16, const ODD: bool>(p: *const u8, len: usize) -> S {
        // SAFETY: the caller's promise; blocks are aligned to 64 bytes.
        S::read(unsafe { std::slice::from_raw_parts(p.cast(), len) })
    }
}

pub(super) struct Bf16Element;

impl Element for Bf16Element {
    const KEY_PAIR_BYTES: usize = 64;
    const POSITIONS_PER_ROW: usize = 2;

    #[inline(always)]
    unsafe fn key_pair<S: F32x16>(p: *const u8) -> (S, S) {
        // SAFETY: the caller's promise.
        unsafe { (S::load_bf16_even(p, 16), S::load_bf16_odd(p, 16)) }
    }

    #[inline(always)]
    unsafe fn value<S: F32x16, const ODD: bool>(p: *const u8, len: usize) -> S {
        // SAFETY: the caller's promise.
        unsafe { if ODD { S::load_bf16_odd(p, len) } else { S::load_bf16_even(p, len) } }
    }
}
