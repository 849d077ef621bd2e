//! Rotary position embeddings (Su et al. 2021): angles for positions.

use super::RopeConfig;

/// Inverse frequencies after scaling, and the factor on sine and cosine.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeTable {
    /// (dim / 2,) radians per position.
    pub inv_freq: Vec<f32>,
    pub magnitude: f32,
}

impl RopeTable {
    pub fn new(_config: &RopeConfig) -> Self {
        todo!()
    }

    /// Cosines and sines of `position`, each (dim / 2,), times the magnitude.
    pub fn fill(&self, _position: usize, _cos: &mut [f32], _sin: &mut [f32]) {
        todo!()
    }
}
