//! The measuring loops with x86 vector instructions.

use std::arch::x86_64::*;
use std::hint::black_box;

use super::bandwidth::{STEP, STREAMS};
use super::compute::Arithmetic;
use crate::config::Isa;

/// Enough independent sums to hide the latency of the longest chain, few enough for 16 registers.
const CHAINS: usize = 12;

/// The exclusive or of all words, whose number is a multiple of a step of all streams.
#[target_feature(enable = "avx2")]
pub fn read(words: &[u64]) -> u64 {
    let mut sums = [_mm256_setzero_si256(); STEP / 32];
    let stream = words.len() / STREAMS;
    assert!(stream.is_multiple_of(STEP / 8) && words.len().is_multiple_of(STREAMS));
    for at in (0..stream).step_by(STEP / 8) {
        for s in 0..STREAMS {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: s * stream + at + 4 i + 3 < words.len(), as the assertion says.
                let loaded = unsafe { _mm256_loadu_si256(words.as_ptr().add(s * stream + at + 4 * i).cast()) };
                *sum = _mm256_xor_si256(*sum, loaded);
            }
        }
    }
    let all = sums.into_iter().fold(_mm256_setzero_si256(), |all, sum| _mm256_xor_si256(all, sum));
    let mut lanes = [0u64; 4];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), all) };
    lanes.iter().fold(0, |all, lane| all ^ lane)
}

/// The loop of a tier, if the machine has its instructions.
pub fn chains(isa: Isa, arithmetic: Arithmetic) -> Option<fn(u64) -> u64> {
    // SAFETY (all closures): a tier is only asked for on machines that have it, and bf16 is looked for.
    match (isa, arithmetic) {
        (Isa::Scalar, _) | (Isa::Avx2, Arithmetic::Bf16) => None,
        // SAFETY: as above.
        (Isa::Avx2, Arithmetic::Int8) => Some(|n| unsafe { int8_avx2(n) }),
        // SAFETY: as above.
        (Isa::Avx2, Arithmetic::Int4) => Some(|n| unsafe { int4_avx2(n) }),
        // SAFETY: as above.
        (Isa::Avx2, Arithmetic::F32) => Some(|n| unsafe { f32_avx2(n) }),
        // SAFETY: as above.
        (Isa::Avx512 | Isa::Avx512Bf16, Arithmetic::Int8 | Arithmetic::Int4) => Some(|n| unsafe { int8_avx512(n) }),
        // SAFETY: as above.
        (Isa::Avx512 | Isa::Avx512Bf16, Arithmetic::F32) => Some(|n| unsafe { f32_avx512(n) }),
        (Isa::Avx512 | Isa::Avx512Bf16, Arithmetic::Bf16) => {
            // SAFETY: as above.
            is_x86_feature_detected!("avx512bf16").then_some(|n| unsafe { bf16_avx512(n) })
        }
    }
}

/// Each sum is an operand of its own next product, so that the compiler cannot compute one for all.
#[target_feature(enable = "avx2")]
fn int8_avx2(n: u64) -> u64 {
    let mut sums = [_mm256_set1_epi32(1); CHAINS];
    let (x, ones) = black_box((_mm256_set1_epi8(1), _mm256_set1_epi16(1)));
    for _ in 0..n {
        for sum in &mut sums {
            let pairs = _mm256_maddubs_epi16(*sum, x);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
        }
    }
    black_box(sums);
    n * CHAINS as u64 * 64
}

/// The widening to 32 bits, one instruction pair in nine, is left out.
#[target_feature(enable = "avx2")]
fn int4_avx2(n: u64) -> u64 {
    let mut sums = [_mm256_set1_epi16(1); CHAINS];
    let x = black_box(_mm256_set1_epi8(1));
    for _ in 0..n {
        for sum in &mut sums {
            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(*sum, x));
        }
    }
    black_box(sums);
    n * CHAINS as u64 * 64
}

#[target_feature(enable = "avx2,fma")]
fn f32_avx2(n: u64) -> u64 {
    let mut sums = [_mm256_set1_ps(1.0); CHAINS];
    let (half, one) = black_box((_mm256_set1_ps(0.5), _mm256_set1_ps(1.0)));
    for _ in 0..n {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, half, one);
        }
    }
    black_box(sums);
    n * CHAINS as u64 * 16
}

#[target_feature(enable = "avx512f,avx512vnni")]
fn int8_avx512(n: u64) -> u64 {
    let mut sums = [_mm512_set1_epi32(1); CHAINS];
    let (w, x) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(1)));
    for _ in 0..n {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, w, x);
        }
    }
    black_box(sums);
    n * CHAINS as u64 * 128
}

#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_avx512(n: u64) -> u64 {
    let mut sums = [_mm512_set1_ps(1.0); CHAINS];
    let (w, x) = black_box((_mm512_cvtne2ps_pbh(sums[0], sums[1]), _mm512_cvtne2ps_pbh(sums[1], sums[0])));
    for _ in 0..n {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, w, x);
        }
    }
    black_box(sums);
    n * CHAINS as u64 * 64
}

#[target_feature(enable = "avx512f")]
fn f32_avx512(n: u64) -> u64 {
    let mut sums = [_mm512_set1_ps(1.0); CHAINS];
    let (half, one) = black_box((_mm512_set1_ps(0.5), _mm512_set1_ps(1.0)));
    for _ in 0..n {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, half, one);
        }
    }
    black_box(sums);
    n * CHAINS as u64 * 32
}
