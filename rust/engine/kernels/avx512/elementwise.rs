//! Kernels over single rows, compiled for this tier.

use super::vector::Vector;
use crate::kernels::simd::elementwise as simd;
use crate::model::Activation;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::kernels) fn rms_norm_inplace(x: &mut [f32], weight: &[f32], eps: f32) {
    simd::rms_norm_inplace::<Vector>(x, weight, eps);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::kernels) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    simd::rms_norm::<Vector>(x, weight, eps, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::kernels) fn rope(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    simd::rope::<Vector>(heads, head_dim, cos, sin);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::kernels) fn add(x: &mut [f32], y: &[f32]) {
    simd::add::<Vector>(x, y);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::kernels) fn gated_activation(activation: Activation, gate: &mut [f32], up: &[f32]) {
    simd::gated_activation::<Vector>(activation, gate, up);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::kernels) fn softcap(x: &mut [f32], cap: f32) {
    simd::softcap::<Vector>(x, cap);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(in crate::kernels) fn scale(x: &mut [f32], factor: f32) {
    simd::scale::<Vector>(x, factor);
}
