//! From a checkpoint to the CPU's packed weights, tensor by tensor.

use std::cell::RefCell;

use crate::backend::cpu::{CpuLinear, Segment};
use crate::backend::{Act, HeadTransform};
use crate::error::{Error, Result};
use crate::kernels::threads::{Lane, Pool};
use crate::model::{DecoderWeights, Experts, ExpertsConfig, FeedForward, LayerWeights, ModelConfig, Role, Source};
use crate::quant::{PANEL_ROWS, PackedMatrix, WeightArena};
use crate::weights::packed::{NamedMatrix, PackedFile};

type Vector = Vec<f32>;

/// A model in the CPU backend's own layouts.
pub type CpuWeights = DecoderWeights<CpuLinear, Vector>;

/// A matrix, its output and its first column there.
pub type MatrixPlace = (Role, Act, usize);

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
        if self.column_order(Role::Embedding)?.is_some() {
            let what = "the embedding table has its columns in another order (act-order)";
            return Err(Error::unsupported(self.source.checkpoint.path(), what));
        }
        let head = match self.config.tie_embeddings {
            true => None,
            false => Some(self.linear(&[(Role::Head, Act::Normed, 0)])?),
        };
        Ok(DecoderWeights {
            embedding: self.linear(&[(Role::Embedding, Act::Normed, 0)])?,
            layers: (0..self.config.num_layers())
                .map(|layer| layer_weights(self.source, layer, |parts| self.linear(parts), self.feed_forward(layer)?))
                .collect::<Result<_>>()?,
            final_norm: self.source.vector(Role::FinalNorm)?,
            head,
        })
    }

    fn feed_forward(&self, layer: usize) -> Result<FeedForward<CpuLinear>> {
        if let Some(config) = self.config.experts {
            return Ok(FeedForward::Experts(Experts {
                router: self.linear(&router(layer))?,
                gate_up: self.in_order(&expert_gates(layer, config))?,
                down: self.in_order(&expert_downs(layer, config))?,
                config,
            }));
        }
        let reader = self.column_order(Role::Down(layer))?;
        let gate_up = self.linear_for(&gate_up(layer), reader)?;
        // Its input comes in the order of its columns.
        let down = self.linear(&down(layer))?.in_order();
        Ok(FeedForward::Dense { gate_up, down })
    }

    /// Matrices whose columns must be in the order of their input.
    fn in_order(&self, parts: &[MatrixPlace]) -> Result<CpuLinear> {
        for &(role, ..) in parts {
            if self.column_order(role)?.is_some() {
                let what = "an expert has its columns in another order (act-order)";
                return Err(Error::unsupported(self.source.checkpoint.path(), what));
            }
        }
        self.linear(parts)
    }

    /// Matrices that read one input, each with its output and first column there.
    fn linear(&self, parts: &[MatrixPlace]) -> Result<CpuLinear> {
        self.linear_for(parts, None)
    }

    /// The same where the reader of the outputs has its columns in the order `reader`, so that the rows of these
    /// matrices are put into it.
    fn linear_for(&self, parts: &[MatrixPlace], reader: Option<&[u32]>) -> Result<CpuLinear> {
        let (mut segments, mut orders) = (Vec::new(), Vec::new());
        let panels = parts.iter().map(|&(role, ..)| Ok(self.source.part(role)?.rows.div_ceil(PANEL_ROWS)));
        let panels = panels.collect::<Result<Vec<_>>>()?;
        for (i, &(role, output, col)) in parts.iter().enumerate() {
            let order = self.column_order(role)?.map(|order| place_of(order, &mut orders));
            // Lanes take panels of these as of one matrix, and of each of the others by itself.
            let (before, all) = match output {
                Act::Qkv => (panels[..i].iter().sum(), panels.iter().sum()),
                _ => (0, panels[i]),
            };
            segments.push(Segment { matrix: self.matrix(role, reader, before, all)?, output, col, order });
        }
        Ok(CpuLinear { segments, orders })
    }

    fn column_order(&self, role: Role) -> Result<Option<&[u32]>> {
        Ok(self.source.checkpoint.column_order(&self.source.part(role)?.name))
    }

    /// Its panels follow `before` others in a list of `all`, of which each lane computes a share: it is the first to write it, which
    /// puts it into the memory near to it.
    fn matrix(&self, role: Role, reader: Option<&[u32]>, before: usize, all: usize) -> Result<PackedMatrix> {
        let part = self.source.part(role)?;
        let info = self.source.checkpoint.info(&part.name)?;
        let cols = info.shape.last().copied().unwrap_or(0);
        let name = format!("{role:?}");
        let kept = match self.kept.and_then(|kept| kept.matrix(&name, info.dtype, part.rows, cols)) {
            Some(kept) if !self.pool.spans_nodes() => return Ok(kept),
            kept => kept,
        };
        let matrix = PackedMatrix::zeroed_in(&self.arena, info.dtype, part.rows, cols)?;
        let share = |lane: Lane<'_>| {
            let (share, end) = (lane.share(all), before + matrix.num_panels());
            share.start.clamp(before, end) - before..share.end.clamp(before, end) - before
        };
        if let Some(kept) = kept {
            // SAFETY: each lane copies its own panels, and nobody else has the matrix yet.
            self.pool.run(&|lane| unsafe { matrix.copy_panels(&kept, share(lane)) })?;
            kept.release();
            return Ok(matrix);
        }
        let rows = self.source.checkpoint.rows(&part.name)?;
        let row_of = |row: usize| (part.row_of)(reader.map_or(row, |reader| reader[row] as usize));
        self.pool.run(&|lane| {
            // SAFETY: as above.
            unsafe { matrix.pack_panels(&*rows, &row_of, share(lane)) };
        })?;
        self.source.checkpoint.release(&part.name);
        self.packed.borrow_mut().push(NamedMatrix { name, matrix: matrix.share() });
        Ok(matrix)
    }
}

/// The place of an order among those that were met.
fn place_of(order: &[u32], orders: &mut Vec<Box<[u32]>>) -> usize {
    orders.iter().position(|met| **met == *order).unwrap_or_else(|| {
        orders.push(order.into());
        orders.len() - 1
    })
}

/// The matrices that read an attention's input.
pub fn qkv(config: &ModelConfig, layer: usize) -> [MatrixPlace; 3] {
    let key = config.q_dim();
    [
        (Role::Query(layer), Act::Qkv, 0),
        (Role::Key(layer), Act::Qkv, key),
        (Role::Value(layer), Act::Qkv, key + config.kv_dim()),
    ]
}

/// The matrix that reads what the heads attended to.
pub fn attn_output(layer: usize) -> [MatrixPlace; 1] {
    [(Role::AttnOutput(layer), Act::Projected, 0)]
}

/// The matrices that read a feed-forward's input.
pub fn gate_up(layer: usize) -> [MatrixPlace; 2] {
    [(Role::Gate(layer), Act::Gate, 0), (Role::Up(layer), Act::Gate, 0)]
}

/// The matrix that reads what they make.
pub fn down(layer: usize) -> [MatrixPlace; 1] {
    [(Role::Down(layer), Act::Projected, 0)]
}

/// The matrix that picks experts.
pub fn router(layer: usize) -> [MatrixPlace; 1] {
    [(Role::Router(layer), Act::Gate, 0)]
}

/// Gate and up of all experts, which read rows of one input.
pub fn expert_gates(layer: usize, experts: ExpertsConfig) -> Vec<MatrixPlace> {
    let parts = |e| [Role::ExpertGate(layer, e), Role::ExpertUp(layer, e)];
    (0..experts.count).flat_map(parts).map(|role| (role, Act::Gate, 0)).collect()
}

/// The matrices that read what they make.
pub fn expert_downs(layer: usize, experts: ExpertsConfig) -> Vec<MatrixPlace> {
    (0..experts.count).map(|e| (Role::ExpertDown(layer, e), Act::Projected, 0)).collect()
}

/// Layer `layer`, with its linears as `linear` makes them of matrices that read one input.
pub fn layer_weights<L>(
    source: &Source,
    layer: usize,
    linear: impl Fn(&[MatrixPlace]) -> Result<L>,
    ffn: FeedForward<L>,
) -> Result<LayerWeights<L, Vector>> {
    let c = &source.config;
    let post = |role| c.post_norms.then(|| source.vector(role)).transpose();
    Ok(LayerWeights {
        attn_norm: source.vector(Role::AttnNorm(layer))?,
        qkv: linear(&qkv(c, layer))?,
        heads: heads(source, layer)?,
        attn_output: linear(&attn_output(layer))?,
        attn_post_norm: post(Role::AttnPostNorm(layer))?,
        ffn_norm: source.vector(Role::FfnNorm(layer))?,
        ffn,
        ffn_post_norm: post(Role::FfnPostNorm(layer))?,
    })
}

fn heads(source: &Source, layer: usize) -> Result<HeadTransform<Vector>> {
    let c = &source.config;
    let norm = |role| c.qk_norm.then(|| source.vector(role)).transpose();
    let bias = match c.qkv_bias {
        false => None,
        true => Some(
            [Role::QueryBias(layer), Role::KeyBias(layer), Role::ValueBias(layer)]
                .into_iter()
                .map(|role| source.vector(role))
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

/// Bytes that the matrices take in memory.
pub fn num_bytes(weights: &CpuWeights) -> u64 {
    let ends = weights.embedding.num_bytes() + weights.head.as_ref().map_or(0, CpuLinear::num_bytes);
    (ends + weights.layers.iter().map(layer_bytes).sum::<usize>()) as u64
}

/// Those of one layer.
pub fn layer_bytes(layer: &LayerWeights<CpuLinear, Vector>) -> usize {
    [&layer.qkv, &layer.attn_output].into_iter().chain(layer.ffn.linears()).map(CpuLinear::num_bytes).sum()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::open;
    use crate::weights::packed::{PackedCache, SourceStamp};

    fn matrices(weights: &CpuWeights) -> Vec<&PackedMatrix> {
        let layers = weights.layers.iter();
        let linears = layers.flat_map(|layer| [&layer.qkv, &layer.attn_output].into_iter().chain(layer.ffn.linears()));
        let all = [&weights.embedding].into_iter().chain(linears).chain(&weights.head);
        all.flat_map(|linear| &linear.segments).map(|segment| &segment.matrix).collect()
    }

    #[test]
    fn lanes_far_from_each_other_have_copies_of_what_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, near) = (PackedCache::new(dir.path().into(), u64::MAX), Pool::new(2));
        let far = Pool::at(3, vec![vec![0], vec![0], vec![0]]);
        for model in ["llama3", "gemma3", "mixtral"] {
            let source = open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(model)).unwrap();
            let stamp = SourceStamp::of(&*source.checkpoint, None).unwrap();
            let made = load_weights(&source, &near, None).unwrap();
            cache.store(&stamp, &made.packed);
            let kept = cache.open(&stamp, &near).unwrap();
            for pool in [&near, &far] {
                let LoadedWeights { weights, packed } = load_weights(&source, pool, Some(&kept)).unwrap();
                assert!(packed.is_empty());
                for (i, (loaded, made)) in matrices(&weights).into_iter().zip(matrices(&made.weights)).enumerate() {
                    assert!(loaded.bytes() == made.bytes(), "{model}: matrix {i}");
                    assert_eq!(loaded.is_mapped(), !pool.spans_nodes(), "{model}: matrix {i}");
                }
            }
        }
    }
}
