//! Heads in the sizes that kernels are built for.
//!
//! A head of 80 dimensions runs as one of 128 whose last 48 are zeros: they add nothing to dot products, do not rotate,
//! and what they add to the output meets zeros. A norm over a head divides by its padded size, which its weight and
//! epsilon undo.

use crate::model::ModelConfig;

use super::launch::AttentionShape;

/// Real and padded size of heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadPadding {
    pub real: usize,
    pub padded: usize,
}

impl HeadPadding {
    /// None: heads are larger than any kernel takes.
    pub fn new(head_dim: usize) -> Option<Self> {
        let padded = AttentionShape::HEAD_DIMS.into_iter().find(|&dim| dim >= head_dim)?;
        Some(Self { real: head_dim, padded })
    }

    /// The model as the device computes it.
    pub fn apply(&self, config: &ModelConfig) -> ModelConfig {
        ModelConfig { head_dim: self.padded, ..config.clone() }
    }

    /// The real row (or column, or number) in place `padded`, heads one after the other. None: padding.
    pub fn source(&self, padded: usize) -> Option<usize> {
        let (head, dim) = (padded / self.padded, padded % self.padded);
        (dim < self.real).then_some(head * self.real + dim)
    }

    /// Whether groups of `group` columns stay together, and in line with groups of the padded columns.
    pub fn keeps_groups(&self, group: usize) -> bool {
        self.real == self.padded || (self.real.is_multiple_of(group) && self.padded.is_multiple_of(group))
    }

    /// Numbers of heads, with zeros between.
    pub fn pad(&self, values: &[f32]) -> Vec<f32> {
        let len = values.len() / self.real * self.padded;
        (0..len).map(|place| self.source(place).map_or(0.0, |source| values[source])).collect()
    }

    /// A norm's weight, such that a norm over the padded head gives what one over the real head does.
    pub fn norm_weight(&self, weight: &[f32]) -> Vec<f32> {
        let scale = self.ratio().sqrt();
        self.pad(weight).into_iter().map(|weight| weight * scale).collect()
    }

    /// The same for its epsilon.
    pub fn norm_eps(&self, eps: f32) -> f32 {
        eps * self.ratio()
    }

    fn ratio(&self) -> f32 {
        self.real as f32 / self.padded as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
        let mean = x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32;
        x.iter().zip(weight).map(|(x, weight)| x / (mean + eps).sqrt() * weight).collect()
    }

    #[test]
    fn a_padded_head_is_normed_like_the_real_one() {
        let padding = HeadPadding::new(80).unwrap();
        assert_eq!(padding, HeadPadding { real: 80, padded: 128 });
        let head: Vec<f32> = (0..80).map(|i| (i as f32 * 0.37).sin() * 1e-2).collect();
        let weight: Vec<f32> = (0..80).map(|i| 1.0 + (i as f32).cos()).collect();
        let real = rms_norm(&head, &weight, 1e-5);
        let padded = rms_norm(&padding.pad(&head), &padding.norm_weight(&weight), padding.norm_eps(1e-5));
        assert!(padded[80..].iter().all(|&x| x == 0.0));
        assert!(padded.iter().zip(&real).all(|(padded, real)| (padded - real).abs() < 1e-5));
    }

    #[test]
    fn heads_keep_their_numbers_and_larger_ones_are_refused() {
        let padding = HeadPadding::new(48).unwrap();
        let values: Vec<f32> = (0..96).map(|i| i as f32 + 1.0).collect();
        let padded = padding.pad(&values);
        assert_eq!(padded.len(), 128);
        assert_eq!(padded[64..][..48], values[48..]);
        assert_eq!(padded[48..64], [0.0; 16]);
        assert_eq!(HeadPadding::new(256), Some(HeadPadding { real: 256, padded: 256 }));
        assert_eq!(HeadPadding::new(257), None);
    }
}
