//! The forward pass, once for all families: they differ by data.

use super::{Activation, ExpertsConfig, ModelConfig};
use crate::backend::{Act, Backend, HeadTransform};

/// Weights in a backend's own form: linears `L` and vectors `V`.
pub struct DecoderWeights<L, V> {
    /// (vocab_size, hidden_size)
    pub embedding: L,
    pub layers: Vec<LayerWeights<L, V>>,
    /// (hidden_size,)
    pub final_norm: V,
    /// (vocab_size, hidden_size). None: the embedding table.
    pub head: Option<L>,
}

impl<L, V> DecoderWeights<L, V> {
    /// What makes logits.
    pub fn head(&self) -> &L {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

pub struct LayerWeights<L, V> {
    /// (hidden_size,)
    pub attn_norm: V,
    /// (q_dim + 2 * kv_dim, hidden_size)
    pub qkv: L,
    pub heads: HeadTransform<V>,
    /// (hidden_size, q_dim)
    pub attn_output: L,
    /// (hidden_size,), for families that norm what returns to the residual stream.
    pub attn_post_norm: Option<V>,
    /// (hidden_size,)
    pub ffn_norm: V,
    pub ffn: FeedForward<L>,
    pub ffn_post_norm: Option<V>,
}

pub enum FeedForward<L> {
    Dense {
        /// (2 * intermediate_size, hidden_size): Gate and Up.
        gate_up: L,
        /// (hidden_size, intermediate_size)
        down: L,
    },
    Experts(Experts<L>),
}

/// A mixture of experts: what a token takes is the sum of its experts' outputs, each times its share.
pub struct Experts<L> {
    /// (count, hidden_size)
    pub router: L,
    /// Of all experts, one after the other: (2 * intermediate_size, hidden_size) each, Gate and Up.
    pub gate_up: L,
    /// (hidden_size, intermediate_size) each.
    pub down: L,
    pub config: ExpertsConfig,
}

impl<L> FeedForward<L> {
    /// What it reads first.
    fn first(&self) -> &L {
        match self {
            Self::Dense { gate_up, .. } => gate_up,
            Self::Experts(experts) => &experts.router,
        }
    }

    pub fn linears(&self) -> impl Iterator<Item = &L> {
        match self {
            Self::Dense { gate_up, down } => [Some(gate_up), Some(down), None],
            Self::Experts(experts) => [&experts.router, &experts.gate_up, &experts.down].map(Some),
        }
        .into_iter()
        .flatten()
    }

    /// What makes the gated product.
    pub fn gate_up(&self) -> &L {
        match self {
            Self::Dense { gate_up, .. } => gate_up,
            Self::Experts(experts) => &experts.gate_up,
        }
    }

    /// What reads the gated product.
    pub fn down(&self) -> &L {
        match self {
            Self::Dense { down, .. } => down,
            Self::Experts(experts) => &experts.down,
        }
    }
}

/// Computes one step: reads the step's tokens, extends the KV cache, writes the rows that are wanted.
pub fn forward<B: Backend>(backend: &B, config: &ModelConfig, weights: &DecoderWeights<B::Linear, B::Vector>) {
    backend.embed(&weights.embedding, config.embedding_scale);
    backend.norm(&weights.layers[0].attn_norm);
    for (i, layer) in weights.layers.iter().enumerate() {
        let next = weights.layers.get(i + 1);
        let next =
            Next { norm: next.map(|next| &next.attn_norm), linear: next.map_or(weights.head(), |next| &next.qkv) };
        forward_layer(backend, config.activation, i, layer, Some(next));
    }
    backend.head(&weights.final_norm, weights.head(), config.final_softcap);
}

/// What follows a layer.
pub struct Next<'a, L, V> {
    /// What makes Normed of Residual. None: the head does it.
    pub norm: Option<&'a V>,
    /// The product after that.
    pub linear: &'a L,
}

/// Layer `i`: reads Normed, adds to Residual, and leaves it in Normed through the next norm, if there is one.
pub fn forward_layer<B: Backend>(
    backend: &B,
    activation: Activation,
    i: usize,
    layer: &LayerWeights<B::Linear, B::Vector>,
    next: Option<Next<'_, B::Linear, B::Vector>>,
) {
    backend.linear(&layer.qkv, Act::Normed);
    backend.expect(&layer.attn_output);
    backend.rotate_and_store(i, &layer.heads);
    backend.attend(i);
    backend.linear(&layer.attn_output, Act::Attended);
    backend.expect(layer.ffn.first());
    backend.add_and_norm(layer.attn_post_norm.as_ref(), Some(&layer.ffn_norm));
    feed_forward(backend, activation, &layer.ffn);
    if let Some(next) = &next {
        backend.expect(next.linear);
    }
    backend.add_and_norm(layer.ffn_post_norm.as_ref(), next.and_then(|next| next.norm));
}

fn feed_forward<B: Backend>(backend: &B, activation: Activation, ffn: &FeedForward<B::Linear>) {
    match ffn {
        FeedForward::Dense { gate_up, down } => {
            backend.gated_linear(gate_up, activation);
            backend.linear(down, Act::Gate);
        }
        FeedForward::Experts(experts) => {
            backend.route(&experts.router, experts.config);
            backend.gated_experts(&experts.gate_up, experts.config, activation);
            backend.sum_experts(&experts.down, experts.config);
        }
    }
}
