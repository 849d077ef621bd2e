//! Kernels over single rows: norms, rotary embeddings, activations.

use super::Kernels;
use crate::model::Activation;

impl Kernels {
    /// out = x / rms(x) * weight, all (n,). Source: Zhang and Sennrich 2019.
    pub fn rms_norm(&self, _x: &[f32], _weight: &[f32], _eps: f32, _out: &mut [f32]) {
        todo!()
    }

    /// The same, in place.
    pub fn rms_norm_inplace(&self, _x: &mut [f32], _weight: &[f32], _eps: f32) {
        todo!()
    }

    /// Rotates one head in place, half-split pairs (i, i + dim/2); `cos` and `sin` are (dim / 2,).
    /// Dimensions past 2 * cos.len() stay.
    pub fn rope(&self, _head: &mut [f32], _cos: &[f32], _sin: &[f32]) {
        todo!()
    }

    /// x += y.
    pub fn add(&self, _x: &mut [f32], _y: &[f32]) {
        todo!()
    }

    /// gate = act(gate) * up.
    pub fn gated_activation(&self, _activation: Activation, _gate: &mut [f32], _up: &[f32]) {
        todo!()
    }

    /// x = cap * tanh(x / cap).
    pub fn softcap(&self, _x: &mut [f32], _cap: f32) {
        todo!()
    }

    /// x *= factor.
    pub fn scale(&self, _x: &mut [f32], _factor: f32) {
        todo!()
    }
}
