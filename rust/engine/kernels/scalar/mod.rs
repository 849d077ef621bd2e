//! The specification: plain Rust, the same loops as the formulas. Every other tier is compared with it.

pub(super) mod attention;
pub(super) mod elementwise;
pub mod matmul;
