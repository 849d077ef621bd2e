//! Looks at the matrices of a layer, and changes them, while the calibration text passes through it.
//!
//! The decoder computes the layer as always. Whenever it asks for a product, the product's matrices are loaded and
//! shown, with the inputs that stand ready, to who quantizes; the product is computed with what comes back. So every
//! matrix sees the errors of those before it, and one pass over the text is all it takes.

use std::cell::RefCell;

use super::compute::Compute;
use super::{Inputs, Matrix};
use crate::backend::cpu::{CpuLinear, Segment, Session};
use crate::backend::{Act, Backend, HeadTransform};
use crate::error::Result;
use crate::model::{
    Activation, Experts, ExpertsConfig, FeedForward, LayerWeights, ModelConfig, Role, Source, forward_layer,
};
use crate::runner::{MatrixPlace, down, expert_downs, expert_gates, gate_up, layer_weights, router};

/// Products of a layer that are shown: queries, keys and values; attention's output; and of the feed-forward, or of each
/// expert, both.
pub fn num_steps(config: &ModelConfig) -> usize {
    2 + 2 * config.experts.map_or(1, |experts| experts.count)
}

/// Is shown the roles of a product's matrices, their inputs and the matrices, and returns those to compute with.
pub type OnProduct<'a> = dyn Fn(&[Role], &Inputs<'_>, Vec<Matrix>) -> Result<Vec<Matrix>> + 'a;

pub struct Maker<'a> {
    session: &'a Session,
    source: &'a Source,
    on_product: &'a OnProduct<'a>,
    state: RefCell<Result<()>>,
}

impl<'a> Maker<'a> {
    /// `on_product` is called for each of a layer's `num_steps` products.
    pub fn new(session: &'a Session, source: &'a Source, on_product: &'a OnProduct<'a>) -> Self {
        Self { session, source, on_product, state: RefCell::new(Ok(())) }
    }

    /// Computes layer `layer` from the session's residual stream.
    pub fn layer(self, layer: usize) -> Result<()> {
        let ffn = match self.source.config.experts {
            None => FeedForward::Dense { gate_up: gate_up(layer).to_vec(), down: down(layer).to_vec() },
            Some(config) => FeedForward::Experts(Experts {
                router: router(layer).to_vec(),
                gate_up: expert_gates(layer, config),
                down: expert_downs(layer, config),
                config,
            }),
        };
        let weights: LayerWeights<Vec<MatrixPlace>, Vec<f32>> =
            layer_weights(self.source, layer, |places| Ok(places.to_vec()), ffn)?;
        self.session.norm(&weights.attn_norm);
        forward_layer(&self, self.source.config.activation, 0, &weights, None);
        self.state.into_inner()
    }

    /// What a product is computed with; None after an error.
    fn make(&self, made: impl FnOnce() -> Result<Vec<Segment>>) -> Option<CpuLinear> {
        if self.state.borrow().is_err() {
            return None;
        }
        let made = made().map_err(|err| *self.state.borrow_mut() = Err(err)).ok();
        made.map(|segments| CpuLinear { segments, orders: Vec::new() })
    }

    /// What matrices become that read the rows `x`.
    fn segments(&self, places: &[MatrixPlace], x: &[f32]) -> Result<Vec<Segment>> {
        let matrices = self.load(places)?;
        let inputs = Inputs { x, cols: matrices[0].cols };
        let roles: Vec<_> = places.iter().map(|&(role, ..)| role).collect();
        self.pack(places, &(self.on_product)(&roles, &inputs, matrices)?)
    }

    /// The same for experts, each with `count` matrices of its own.
    fn expert_segments(&self, places: &[MatrixPlace], count: usize, input: Act) -> Result<Vec<Segment>> {
        let experts = places.chunks_exact(count).enumerate();
        let segments = experts.map(|(e, places)| self.segments(places, self.session.expert_activations(input, e)));
        Ok(segments.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn load(&self, places: &[MatrixPlace]) -> Result<Vec<Matrix>> {
        places.iter().map(|&(role, ..)| Matrix::load(self.source, role)).collect()
    }

    fn pack(&self, places: &[MatrixPlace], matrices: &[Matrix]) -> Result<Vec<Segment>> {
        let compute = Compute { kernels: self.session.kernels(), pool: self.session.pool() };
        let matrices = matrices.iter().zip(places);
        matrices
            .map(|(matrix, &(_, output, col))| Ok(Segment { matrix: matrix.pack(&compute)?, output, col, order: None }))
            .collect()
    }
}

impl Backend for Maker<'_> {
    type Linear = Vec<MatrixPlace>;
    type Vector = Vec<f32>;

    fn embed(&self, _table: &Self::Linear, _scale: Option<f32>) {
        unreachable!("a layer has no embedding")
    }

    fn norm(&self, weight: &Vec<f32>) {
        self.session.norm(weight);
    }

    fn linear(&self, places: &Self::Linear, input: Act) {
        if let Some(linear) = self.make(|| self.segments(places, self.session.activations(input))) {
            self.session.linear(&linear, input);
        }
    }

    fn rotate_and_store(&self, layer: usize, heads: &HeadTransform<Vec<f32>>) {
        self.session.rotate_and_store(layer, heads);
    }

    fn attend(&self, layer: usize) {
        self.session.attend(layer);
    }

    fn gated_linear(&self, places: &Self::Linear, activation: Activation) {
        if let Some(linear) = self.make(|| self.segments(places, self.session.activations(Act::Normed))) {
            self.session.gated_linear(&linear, activation);
        }
    }

    /// The router stays as it is.
    fn route(&self, places: &Self::Linear, experts: ExpertsConfig) {
        if let Some(linear) = self.make(|| self.pack(places, &self.load(places)?)) {
            self.session.route(&linear, experts);
        }
    }

    fn gated_experts(&self, places: &Self::Linear, experts: ExpertsConfig, activation: Activation) {
        if let Some(linear) = self.make(|| self.expert_segments(places, 2, Act::Normed)) {
            self.session.gated_experts(&linear, experts, activation);
        }
    }

    fn sum_experts(&self, places: &Self::Linear, experts: ExpertsConfig) {
        if let Some(linear) = self.make(|| self.expert_segments(places, 1, Act::Gate)) {
            self.session.sum_experts(&linear, experts);
        }
    }

    fn add_and_norm(&self, post: Option<&Vec<f32>>, next: Option<&Vec<f32>>) {
        self.session.add_and_norm(post, next);
    }

    fn head(&self, _norm: &Vec<f32>, _head: &Self::Linear, _softcap: Option<f32>) {
        unreachable!("a layer has no head")
    }
}
