//! What a token costs, from the model's shape alone.

use super::ModelConfig;
use crate::config::KvDtype;

impl ModelConfig {
    /// Multiply-adds of one token in the layers' matrices.
    pub fn layer_products(&self) -> u64 {
        let attention = self.hidden_size * (self.q_dim() + 2 * self.kv_dim()) + self.q_dim() * self.hidden_size;
        let router = self.experts.map_or(0, |experts| self.hidden_size * experts.count);
        let feed_forward = router + self.experts_per_token() * 3 * self.hidden_size * self.intermediate_size;
        (self.num_layers() * (attention + feed_forward)) as u64
    }

    /// Multiply-adds of one row of logits.
    pub fn head_products(&self) -> u64 {
        (self.vocab_size * self.hidden_size) as u64
    }

    /// Multiply-adds of the attention of a token at `position`: its scores, and the sum of the values.
    pub fn attention_products(&self, position: usize) -> u64 {
        2 * self.q_dim() as u64 * self.positions_seen(position)
    }

    /// Bytes of keys and values that a token at `position` reads.
    pub fn kv_bytes_read(&self, position: usize, dtype: KvDtype) -> u64 {
        self.kv_bytes_per_layer(dtype) as u64 * self.positions_seen(position)
    }

    /// Over all layers, itself included.
    fn positions_seen(&self, position: usize) -> u64 {
        let seen = |window: Option<usize>| (position + 1).min(window.unwrap_or(usize::MAX)) as u64;
        self.layers.iter().map(|layer| seen(layer.window)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{LayerConfig, open};

    #[test]
    fn a_token_meets_every_weight_of_the_matrices_once() {
        for family in ["llama3", "qwen3", "gemma3"] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(family);
            let source = open(&dir).unwrap();
            let names = source.checkpoint.tensor_names();
            let tensors = names.iter().filter_map(|name| source.checkpoint.find(name));
            let shapes = tensors.map(|tensor| tensor.shape).filter(|shape| shape.len() == 2);
            let weights: u64 = shapes.map(|shape| shape.iter().product::<usize>() as u64).sum();
            let tables = if source.config.tie_embeddings { 1 } else { 2 };
            let expected = source.config.layer_products() + tables * source.config.head_products();
            assert_eq!(weights, expected, "{family}");
        }
    }

    #[test]
    fn a_window_bounds_what_is_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models/llama3");
        let mut config = open(&dir).unwrap().config;
        config.layers = vec![LayerConfig { window: None, rope: 0 }, LayerConfig { window: Some(4), rope: 0 }];
        assert_eq!(config.kv_bytes_read(2, KvDtype::Bf16), (2 * 2 * config.kv_dim() * (3 + 3)) as u64);
        assert_eq!(config.kv_bytes_read(9, KvDtype::Bf16), (2 * 2 * config.kv_dim() * (10 + 4)) as u64);
        let scaled = 2 * (config.kv_dim() + 4 * config.num_kv_heads);
        assert_eq!(config.kv_bytes_read(9, KvDtype::Int8), (scaled * (10 + 4)) as u64);
        assert_eq!(config.attention_products(9), (2 * config.q_dim() * (10 + 4)) as u64);
    }
}
