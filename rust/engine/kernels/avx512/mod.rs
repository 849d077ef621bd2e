//! AVX-512 (F, BW, VL, DQ) with VNNI: Ice Lake, Zen 4 and later.

pub(super) mod attention;
pub(super) mod elementwise;
pub mod matmul;
mod vector;
