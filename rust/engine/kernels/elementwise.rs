//! Kernels over single rows: norms, rotary embeddings, activations.
//!
//! Rows have any length and alignment. NaN comes out where NaN goes in. The vector tiers stay within
//! 2e-6 (relative to the largest term of a sum) of the scalar one.

use super::{Kernels, dispatch};
use crate::model::Activation;

impl Kernels {
    /// out = x / rms(x) * weight, all (n,). Source: Zhang and Sennrich 2019.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        assert!(x.len() == weight.len() && x.len() == out.len(), "one weight and one result per element");
        dispatch!(self, elementwise::rms_norm(x, weight, eps, out))
    }

    /// The same, in place.
    pub fn rms_norm_inplace(&self, x: &mut [f32], weight: &[f32], eps: f32) {
        assert_eq!(x.len(), weight.len(), "one weight per element");
        dispatch!(self, elementwise::rms_norm_inplace(x, weight, eps))
    }

    /// Rotates heads (num_heads, head_dim) in place, half-split pairs (i, i + dim/2); `cos` and `sin` are (dim / 2,).
    /// Dimensions past 2 * cos.len() stay.
    pub fn rope(&self, heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
        assert_eq!(cos.len(), sin.len(), "a cosine and a sine per pair");
        assert!(2 * cos.len() <= head_dim && heads.len().is_multiple_of(head_dim), "whole heads");
        dispatch!(self, elementwise::rope(heads, head_dim, cos, sin))
    }

    /// x += y.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "rows of one length");
        dispatch!(self, elementwise::add(x, y))
    }

    /// gate = act(gate) * up.
    pub fn gated_activation(&self, activation: Activation, gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "rows of one length");
        dispatch!(self, elementwise::gated_activation(activation, gate, up))
    }

    /// x = cap * tanh(x / cap).
    pub fn softcap(&self, x: &mut [f32], cap: f32) {
        dispatch!(self, elementwise::softcap(x, cap))
    }

    /// x *= factor.
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        dispatch!(self, elementwise::scale(x, factor))
    }
}

#[cfg(test)]
mod tests;
