//! How fast the vector units multiply and add: the limit of prompts and large batches.

use std::time::Duration;

use super::together::rate;
use crate::kernels::Kernels;

const TIME: Duration = Duration::from_millis(15);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// Products of int8 added in 32 bits.
    Int8,
    /// Products of int8 and codes of four bits.
    Int4,
    /// Products of bf16 added in float32.
    Bf16,
    F32,
}

/// Operations per second of `threads` threads with the instructions of the kernels' tier; None where it has none.
pub fn peak(kernels: Kernels, threads: usize, arithmetic: Arithmetic) -> Option<f64> {
    let chains = chains(kernels, arithmetic)?;
    Some(rate(threads, TIME, || move || chains(20_000)))
}

/// Runs so many times over independent chains of instructions, and says how many operations that was.
type Chains = fn(u64) -> u64;

#[cfg(target_arch = "x86_64")]
fn chains(kernels: Kernels, arithmetic: Arithmetic) -> Option<Chains> {
    super::x86::chains(kernels.isa(), arithmetic)
}

#[cfg(not(target_arch = "x86_64"))]
fn chains(_: Kernels, _: Arithmetic) -> Option<Chains> {
    None
}
