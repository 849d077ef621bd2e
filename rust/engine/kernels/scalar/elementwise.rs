//! Kernels over single rows: the specification.

use crate::model::Activation;

/// 2 * sqrt(2/pi)
pub(in crate::kernels) const GELU_SCALE: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::SQRT_2;

pub(in crate::kernels) fn rms_norm_inplace(x: &mut [f32], weight: &[f32], eps: f32) {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let inverse = 1.0 / ((squares / x.len() as f64) as f32 + eps).sqrt();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x *= inverse * weight;
    }
}

pub(in crate::kernels) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    out.copy_from_slice(x);
    rms_norm_inplace(out, weight, eps);
}

pub(in crate::kernels) fn rope(heads: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32]) {
    for head in heads.chunks_exact_mut(head_dim) {
        let (left, right) = head.split_at_mut(cos.len());
        for i in 0..cos.len() {
            let (l, r) = (left[i], right[i]);
            left[i] = l * cos[i] - r * sin[i];
            right[i] = r * cos[i] + l * sin[i];
        }
    }
}

pub(in crate::kernels) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

pub(in crate::kernels) fn gated_activation(activation: Activation, gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = up
            * match activation {
                Activation::Silu => silu(*gate),
                Activation::GeluTanh => gelu_tanh(*gate),
            };
    }
}

pub(in crate::kernels) fn softcap(x: &mut [f32], cap: f32) {
    for x in x {
        *x = cap * (*x / cap).tanh();
    }
}

pub(in crate::kernels) fn scale(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// x * (1 + tanh(u)) / 2 is x * sigmoid(2u), which does not cancel; u = sqrt(2/pi) (x + 0.044715 x³).
fn gelu_tanh(x: f32) -> f32 {
    let doubled = GELU_SCALE * x * (1.0 + 0.044715 * x * x);
    x / (1.0 + (-doubled).exp())
}
