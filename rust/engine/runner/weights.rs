//! From a checkpoint to the CPU's packed weights, tensor by tensor.

use std::cell::RefCell;

use crate::backend::cpu::{CpuLinear, Segment};
use crate::backend::{Act, HeadTransform};
use crate::error::Result;
use crate::kernels::threads::Pool;
use crate::model::{DecoderWeights, FeedForward, LayerWeights, ModelConfig, Role, Source};
use crate::quant::{PackedMatrix, WeightArena};
use crate::weights::packed::{NamedMatrix, PackedFile};

type Vector = Vec<f32>;

/// A model in the CPU backend's own layouts.
pub type CpuWeights = DecoderWeights<CpuLinear, Vector>;

pub struct LoadedWeights {
    pub weights: CpuWeights,
    /// The matrices that were packed just now.
    pub packed: Vec<NamedMatrix>,
}

/// Takes every matrix from `kept` if that has it, and packs it from the source otherwise. The source's pages are
/// given back as soon as they are packed, so that the weights are never in memory twice.
pub fn load_weights(source: &Source, pool: &Pool, kept: Option<&PackedFile>) -> Result<LoadedWeights> {
    let config = &source.config;
    let loader = Loader { source, pool, kept, config, arena: WeightArena::default(), packed: RefCell::default() };
    let weights = loader.decoder()?;
    Ok(LoadedWeights { weights, packed: loader.packed.into_inner() })
}

struct Loader<'a> {
    source: &'a Source,
    pool: &'a Pool,
    kept: Option<&'a PackedFile>,
    config: &'a ModelConfig,
    arena: WeightArena,
    packed: RefCell<Vec<NamedMatrix>>,
}

impl Loader<'_> {
    fn decoder(&self) -> Result<CpuWeights> {
        let head = match self.config.tie_embeddings {
            true => None,
            false => Some(self.linear(&[(Role::Head, Act::Normed, 0)])?),
        };
        Ok(DecoderWeights {
            embedding: self.linear(&[(Role::Embedding, Act::Normed, 0)])?,
            layers: (0..self.config.num_layers()).map(|layer| self.layer(layer)).collect::<Result<_>>()?,
            final_norm: self.source.vector(Role::FinalNorm)?,
            head,
        })
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights<CpuLinear, Vector>> {
        let c = self.config;
        let post = |role| c.post_norms.then(|| self.source.vector(role)).transpose();
        Ok(LayerWeights {
            attn_norm: self.source.vector(Role::AttnNorm(layer))?,
            qkv: self.linear(&[
                (Role::Query(layer), Act::Qkv, 0),
                (Role::Key(layer), Act::Qkv, c.q_dim()),
                (Role::Value(layer), Act::Qkv, c.q_dim() + c.kv_dim()),
            ])?,
            heads: self.heads(layer)?,
            attn_output: self.linear(&[(Role::AttnOutput(layer), Act::Projected, 0)])?,
            attn_post_norm: post(Role::AttnPostNorm(layer))?,
            ffn_norm: self.source.vector(Role::FfnNorm(layer))?,
            ffn: FeedForward::Dense {
                gate_up: self.linear(&[(Role::Gate(layer), Act::Gate, 0), (Role::Up(layer), Act::Gate, 0)])?,
                down: self.linear(&[(Role::Down(layer), Act::Projected, 0)])?,
            },
            ffn_post_norm: post(Role::FfnPostNorm(layer))?,
        })
    }

    fn heads(&self, layer: usize) -> Result<HeadTransform<Vector>> {
        let c = self.config;
        let norm = |role| c.qk_norm.then(|| self.source.vector(role)).transpose();
        let bias = match c.qkv_bias {
            false => None,
            true => Some(
                [Role::QueryBias(layer), Role::KeyBias(layer), Role::ValueBias(layer)]
                    .into_iter()
                    .map(|role| self.source.vector(role))
                    .collect::<Result<Vec<_>>>()?
                    .concat(),
            ),
        };
        Ok(HeadTransform {
            bias,
            query_norm: norm(Role::QueryNorm(layer))?,
            key_norm: norm(Role::KeyNorm(layer))?,
            rope: c.layers[layer].rope,
        })
    }

    /// Matrices that read one input, each with its output and first column there.
    fn linear(&self, parts: &[(Role, Act, usize)]) -> Result<CpuLinear> {
        let segments = parts
            .iter()
            .map(|&(role, output, col)| Ok(Segment { matrix: self.matrix(role)?, output, col }))
            .collect::<Result<_>>()?;
        Ok(CpuLinear { segments })
    }

    fn matrix(&self, role: Role) -> Result<PackedMatrix> {
        let part = self.source.part(role)?;
        let info = self.source.checkpoint.info(&part.name)?;
        let cols = info.shape.last().copied().unwrap_or(0);
        let name = format!("{role:?}");
        if let Some(matrix) = self.kept.and_then(|kept| kept.matrix(&name, info.dtype, part.rows, cols)) {
            return Ok(matrix);
        }
        let view = self.source.checkpoint.tensor(&part.name)?;
        let matrix = PackedMatrix::zeroed_in(&self.arena, view.dtype, part.rows, cols)?;
        self.pool.run(&|lane| {
            // SAFETY: each lane packs its own panels, and nobody else has the matrix yet.
            unsafe { matrix.pack_panels(&view, &*part.row_of, lane.share(matrix.num_panels())) };
        })?;
        self.source.checkpoint.release(&view);
        self.packed.borrow_mut().push(NamedMatrix { name, matrix: matrix.share() });
        Ok(matrix)
    }
}

/// Bytes that the matrices take in memory.
pub fn num_bytes(weights: &CpuWeights) -> u64 {
    let layer = |layer: &LayerWeights<CpuLinear, Vector>| {
        let FeedForward::Dense { gate_up, down } = &layer.ffn;
        [&layer.qkv, &layer.attn_output, gate_up, down].map(CpuLinear::num_bytes).iter().sum::<usize>()
    };
    let ends = weights.embedding.num_bytes() + weights.head.as_ref().map_or(0, CpuLinear::num_bytes);
    (ends + weights.layers.iter().map(layer).sum::<usize>()) as u64
}
