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
use crate::model::{Activation, ExpertsConfig, FeedForward, LayerWeights, Role, Source, forward_layer};
use crate::runner::{MatrixPlace, down, gate_up, layer_weights};

/// Products of a layer.
pub const NUM_STEPS: usize = 4;

/// Is shown the roles of a product's matrices, their inputs and the matrices, and returns those to compute with.
pub type OnProduct<'a> = dyn Fn(&[Role], &Inputs<'_>, Vec<Matrix>) -> Result<Vec<Matrix>> + 'a;

pub struct Maker<'a> {
    session: &'a Session,
    source: &'a Source,
    on_product: &'a OnProduct<'a>,
    state: RefCell<Result<()>>,
}

impl<'a> Maker<'a> {
    /// `on_product` is called for each of a layer's `NUM_STEPS` products.
    pub fn new(session: &'a Session, source: &'a Source, on_product: &'a OnProduct<'a>) -> Self {
        Self { session, source, on_product, state: RefCell::new(Ok(())) }
    }

    /// Computes layer `layer` from the session's residual stream.
    pub fn layer(self, layer: usize) -> Result<()> {
        let ffn = FeedForward::Dense { gate_up: gate_up(layer).to_vec(), down: down(layer).to_vec() };
        let weights: LayerWeights<Vec<MatrixPlace>, Vec<f32>> =
            layer_weights(self.source, layer, |places| Ok(places.to_vec()), ffn)?;
        self.session.norm(&weights.attn_norm);
        forward_layer(&self, self.source.config.activation, 0, &weights, None);
        self.state.into_inner()
    }

    /// What the product is computed with; None after an error.
    fn make(&self, places: &[MatrixPlace], input: Act) -> Option<CpuLinear> {
        if self.state.borrow().is_err() {
            return None;
        }
        let made = self.linear_of(places, input);
        made.map_err(|err| *self.state.borrow_mut() = Err(err)).ok()
    }

    fn linear_of(&self, places: &[MatrixPlace], input: Act) -> Result<CpuLinear> {
        let compute = Compute { kernels: self.session.kernels(), pool: self.session.pool() };
        let matrices: Vec<Matrix> =
            places.iter().map(|&(role, ..)| Matrix::load(self.source, role)).collect::<Result<_>>()?;
        let inputs = Inputs { x: self.session.activations(input), cols: matrices[0].cols };
        let roles: Vec<_> = places.iter().map(|&(role, ..)| role).collect();
        let matrices = (self.on_product)(&roles, &inputs, matrices)?;
        let segments = matrices.iter().zip(places).map(|(matrix, &(_, output, col))| {
            Ok(Segment { matrix: matrix.pack(&compute)?, output, col, order: None })
        });
        Ok(CpuLinear { segments: segments.collect::<Result<_>>()?, orders: Vec::new() })
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
        if let Some(linear) = self.make(places, input) {
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
        if let Some(linear) = self.make(places, Act::Normed) {
            self.session.gated_linear(&linear, activation);
        }
    }

    fn route(&self, _router: &Self::Linear, _experts: ExpertsConfig) {
        unreachable!("mixtures of experts are refused")
    }

    fn gated_experts(&self, _places: &Self::Linear, _experts: ExpertsConfig, _activation: Activation) {
        unreachable!("mixtures of experts are refused")
    }

    fn sum_experts(&self, _places: &Self::Linear, _experts: ExpertsConfig) {
        unreachable!("mixtures of experts are refused")
    }

    fn add_and_norm(&self, post: Option<&Vec<f32>>, next: Option<&Vec<f32>>) {
        self.session.add_and_norm(post, next);
    }

    fn head(&self, _norm: &Vec<f32>, _head: &Self::Linear, _softcap: Option<f32>) {
        unreachable!("a layer has no head")
    }
}
