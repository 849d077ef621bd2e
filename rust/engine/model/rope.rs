//! Rotary position embeddings (Su et al. 2021): angles for positions.

use std::f64::consts::TAU;

use super::{RopeConfig, RopeScaling};

/// Inverse frequencies after scaling, and the factor on sine and cosine.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// (dim / 2,) radians per position.
    pub inv_freq: Vec<f32>,
    pub magnitude: f32,
}

impl RopeTable {
    pub fn new(config: &RopeConfig) -> Self {
        let scale = |pair: usize, freq: f64| match &config.scaling {
            RopeScaling::None => freq,
            RopeScaling::Linear { factor } => freq / f64::from(*factor),
            RopeScaling::PerFrequency { divisors, .. } => freq / f64::from(divisors[pair]),
            RopeScaling::Llama3 { .. } => llama3(&config.scaling, freq),
            RopeScaling::Yarn { .. } => yarn(config, pair, freq),
        };
        let plain = |pair: usize| f64::from(config.theta).powf(-2.0 * pair as f64 / config.dim as f64);
        let inv_freq = (0..config.dim / 2).map(|pair| scale(pair, plain(pair)) as f32).collect();
        let magnitude = match config.scaling {
            RopeScaling::PerFrequency { magnitude, .. } | RopeScaling::Yarn { magnitude, .. } => magnitude,
            _ => 1.0,
        };
        Self { inv_freq, magnitude }
    }

    /// Cosines and sines of `position`, each (dim / 2,), times the magnitude.
    pub fn fill(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        assert!(cos.len() == self.inv_freq.len() && sin.len() == self.inv_freq.len(), "a pair has one cosine and sine");
        for (pair, &inv_freq) in self.inv_freq.iter().enumerate() {
            // The product is rounded to float32 as in the models' training code.
            let (s, c) = f64::from(position as f32 * inv_freq).sin_cos();
            cos[pair] = c as f32 * self.magnitude;
            sin[pair] = s as f32 * self.magnitude;
        }
    }
}

/// Wavelengths that fit the original context `high_freq_factor` times stay; those that fit it less than
/// `low_freq_factor` times are stretched; between them the two are mixed.
fn llama3(scaling: &RopeScaling, freq: f64) -> f64 {
    let &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } = scaling else {
        return freq;
    };
    let [factor, low, high] = [factor, low_freq_factor, high_freq_factor].map(f64::from);
    let rotations = original_max_position as f64 * freq / TAU;
    let kept = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
    freq * (kept + (1.0 - kept) / factor)
}

/// Pairs that turn more than `beta_fast` times in the original context stay, those below `beta_slow` are stretched.
fn yarn(config: &RopeConfig, pair: usize, freq: f64) -> f64 {
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position, .. } = config.scaling else {
        return freq;
    };
    let dim = config.dim as f64;
    let pair_turning = |rotations: f32| {
        dim * (original_max_position as f64 / (f64::from(rotations) * TAU)).ln() / (2.0 * f64::from(config.theta).ln())
    };
    let low = pair_turning(beta_fast).floor().max(0.0);
    let high = pair_turning(beta_slow).ceil().min(dim - 1.0);
    // Equal ends would divide by zero; the reference widens them by the same amount.
    let width = if high == low { 0.001 } else { high - low };
    let stretched = ((pair as f64 - low) / width).clamp(0.0, 1.0);
    freq * (1.0 - stretched) + freq / f64::from(factor) * stretched
}
