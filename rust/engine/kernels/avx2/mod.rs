//! AVX2, FMA and F16C: x86 of 2013 and later.

pub(super) mod attention;
pub(super) mod elementwise;
pub mod matmul;
mod vector;
