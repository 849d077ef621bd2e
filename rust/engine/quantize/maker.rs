//! Quantizes a layer while the calibration text passes through it.
//!
//! The decoder computes the layer as always. Whenever it asks for a product, the product's matrices are loaded and
//! quantized, given the inputs that stand ready, and the product is computed with what their codes stand for. So
//! every matrix sees the errors of those before it, and one pass over the text is all it takes.

use std::cell::RefCell;

use super::compute::Compute;
use super::method::{Made, Method};
use super::{Inputs, Matrix};
use crate::backend::cpu::{CpuLinear, Segment, Session};
use crate::backend::{Act, Backend, HeadTransform};
use crate::error::Result;
use crate::model::{Activation, FeedForward, LayerWeights, Source, forward_layer};
use crate::runner::{MatrixPlace, down, gate_up, layer_weights};

/// Products of a layer.
pub const NUM_STEPS: usize = 4;

pub struct Maker<'a> {
    pub session: &'a Session,
    pub source: &'a Source,
    pub method: &'a Method,
    /// Is called after each of the layer's `NUM_STEPS` products.
    pub on_step: &'a dyn Fn(),
    pub state: RefCell<Result<Vec<Made>>>,
}

impl<'a> Maker<'a> {
    pub fn new(session: &'a Session, source: &'a Source, method: &'a Method, on_step: &'a dyn Fn()) -> Self {
        Self { session, source, method, on_step, state: RefCell::new(Ok(Vec::new())) }
    }

    /// Computes layer `layer` from the session's residual stream, and returns its quantized matrices.
    pub fn layer(self, layer: usize) -> Result<Vec<Made>> {
        let ffn = FeedForward::Dense { gate_up: gate_up(layer).to_vec(), down: down(layer).to_vec() };
        let weights: LayerWeights<Vec<MatrixPlace>, Vec<f32>> =
            layer_weights(self.source, layer, |places| Ok(places.to_vec()), ffn)?;
        self.session.norm(&weights.attn_norm);
        forward_layer(&self, self.source.config.activation, 0, &weights, None);
        self.state.into_inner()
    }

    /// The product's matrices, quantized; None after an error.
    fn make(&self, places: &[MatrixPlace], input: Act) -> Option<CpuLinear> {
        let mut state = self.state.borrow_mut();
        let made = state.as_mut().ok()?;
        match self.quantize(places, input) {
            Ok((linear, new)) => {
                made.extend(new);
                (self.on_step)();
                Some(linear)
            }
            Err(err) => {
                *state = Err(err);
                None
            }
        }
    }

    fn quantize(&self, places: &[MatrixPlace], input: Act) -> Result<(CpuLinear, Vec<Made>)> {
        let compute = Compute { kernels: self.session.kernels(), pool: self.session.pool() };
        let matrices: Vec<Matrix> =
            places.iter().map(|&(role, ..)| Matrix::load(self.source, role)).collect::<Result<_>>()?;
        let inputs = Inputs { x: self.session.activations(input), cols: matrices[0].cols };
        let roles: Vec<_> = places.iter().map(|&(role, ..)| role).collect();
        let made = self.method.quantize(&compute, &self.source.config, &inputs, &roles, matrices)?;
        let segments = made
            .iter()
            .zip(places)
            .map(|(made, &(_, output, col))| Ok(Segment { matrix: made.effective().pack(&compute)?, output, col }));
        Ok((CpuLinear { segments: segments.collect::<Result<_>>()?, order: None }, made))
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

    fn add_and_norm(&self, post: Option<&Vec<f32>>, next: Option<&Vec<f32>>) {
        self.session.add_and_norm(post, next);
    }

    fn head(&self, _norm: &Vec<f32>, _head: &Self::Linear, _softcap: Option<f32>) {
        unreachable!("a layer has no head")
    }
}
