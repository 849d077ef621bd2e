//! What a decoder is computed with: a handful of operations over a step's activations.

pub mod cpu;
pub mod profiled;

use crate::model::{Activation, ExpertsConfig};

/// The activations of a step, (num_tokens, width) each. Backends own the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The residual stream, (num_tokens, hidden_size).
    Residual,
    /// The residual stream after a norm, (num_tokens, hidden_size).
    Normed,
    /// Queries, keys and values side by side, (num_tokens, q_dim + 2 * kv_dim).
    Qkv,
    /// Attention's output, (num_tokens, q_dim).
    Attended,
    /// (num_tokens, intermediate_size): the gated product. With experts, a row for each of a token's.
    Gate,
    /// What returns to the residual stream, (num_tokens, hidden_size).
    Projected,
}

/// What happens to a layer's queries and keys between the projection and the cache.
#[derive(Debug)]
pub struct HeadTransform<V> {
    /// (q_dim + 2 * kv_dim,), for families with biases.
    pub bias: Option<V>,
    /// (head_dim,) each: RMS norm of every head before its rotation.
    pub query_norm: Option<V>,
    pub key_norm: Option<V>,
    /// Into `ModelConfig::ropes`.
    pub rope: usize,
}

/// One lane's view of a device during a step. The decoder is an SPMD program: every lane makes the same
/// calls in the same order, and each call leaves its result visible to all lanes. A device that schedules
/// its own threads has one lane.
pub trait Backend {
    /// Weight matrices that read one input together, each with its place in the output.
    type Linear;
    /// A float32 vector: a norm's weight, a bias.
    type Vector;

    /// Residual = rows of the table for the step's tokens, times `scale`.
    fn embed(&self, table: &Self::Linear, scale: Option<f32>);

    /// Normed = rms_norm(Residual) * weight.
    fn norm(&self, weight: &Self::Vector);

    /// The linear's outputs = input · Wᵀ.
    fn linear(&self, weight: &Self::Linear, input: Act);

    /// `weight` is what the next product reads: whoever waits for memory may ask for its beginning already.
    fn expect(&self, _weight: &Self::Linear) {}

    /// Bias, head norms and rotation on Qkv; keys and values go to the cache of `layer`.
    fn rotate_and_store(&self, layer: usize, heads: &HeadTransform<Self::Vector>);

    /// Attended = softmax(q · Kᵀ) · V over the cache of `layer`.
    fn attend(&self, layer: usize);

    /// Gate = activation(Normed · Gate's rowsᵀ) * (Normed · Up's rowsᵀ), with the rows of both in `weight`.
    fn gated_linear(&self, weight: &Self::Linear, activation: Activation);

    /// Picks every token's experts by the largest of Normed · routerᵀ, with their shares.
    fn route(&self, router: &Self::Linear, experts: ExpertsConfig);

    /// Gate = what `gated_linear` makes of a token, for each of its experts.
    fn gated_experts(&self, weight: &Self::Linear, experts: ExpertsConfig, activation: Activation);

    /// Projected = the sum over a token's experts, in the order of their shares, of share * (Gate · Downᵀ).
    fn sum_experts(&self, weight: &Self::Linear, experts: ExpertsConfig);

    /// Residual += Projected (through `post`, where a family norms it first); then Normed = norm(Residual)
    /// with `next`, unless this was the last layer.
    fn add_and_norm(&self, post: Option<&Self::Vector>, next: Option<&Self::Vector>);

    /// Final norm, head and softcap, for the rows that the step wants, into the step's output.
    fn head(&self, norm: &Self::Vector, head: &Self::Linear, softcap: Option<f32>);
}
