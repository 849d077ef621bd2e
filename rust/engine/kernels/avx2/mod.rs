//! AVX2, FMA and F16C: x86 of 2013 and later.

pub mod matmul;
