//! From a checkpoint to bf16 matrices on the device, tensor by tensor.

use std::sync::Arc;

use half::bf16;

use super::driver::{Context, DeviceBuffer};
use super::heads::HeadPadding;
use crate::backend::profiled::Weights;
use crate::backend::{Act, HeadTransform};
use crate::error::{Error, Result};
use crate::model::{DecoderWeights, FeedForward, LayerWeights, Role, Source, roles};
use crate::quant::{PANEL_ROWS, dequantize};
use crate::runner::{MatrixPlace, down, gate_up, layer_weights};
use crate::weights::RowSource;

type Vector = DeviceBuffer<f32>;

/// A model on the device.
pub type CudaWeights = DecoderWeights<CudaLinear, Vector>;

/// Matrices that read one input, below each other: (rows, cols).
#[derive(Debug)]
pub struct CudaLinear {
    pub weight: DeviceBuffer<bf16>,
    pub cols: usize,
    pub output: Act,
}

impl CudaLinear {
    pub fn rows(&self) -> usize {
        self.weight.len() / self.cols
    }
}

impl Weights for CudaLinear {
    fn num_bytes(&self) -> usize {
        self.weight.num_bytes()
    }

    fn num_weights(&self) -> usize {
        self.weight.len()
    }
}

/// Bytes that the matrices take on the device.
pub fn weight_bytes(source: &Source, padding: HeadPadding) -> Result<u64> {
    let matrices = roles(&source.config).into_iter().filter(|role| role.is_matrix());
    let sizes = matrices.map(|role| matrix_shape(source, padding, role).map(|(rows, cols)| (2 * rows * cols) as u64));
    sizes.sum()
}

/// Takes every matrix from the source as bf16, whatever it is there. Its pages are given back as soon as they are copied.
pub fn load(source: &Source, context: &Arc<Context>, padding: HeadPadding, threads: usize) -> Result<CudaWeights> {
    Loader { source, context, padding, threads }.decoder()
}

struct Loader<'a> {
    source: &'a Source,
    context: &'a Arc<Context>,
    padding: HeadPadding,
    threads: usize,
}

impl Loader<'_> {
    fn decoder(&self) -> Result<CudaWeights> {
        let config = &self.source.config;
        let head = (!config.tie_embeddings).then(|| self.linear(&[(Role::Head, Act::Normed, 0)])).transpose()?;
        Ok(DecoderWeights {
            embedding: self.linear(&[(Role::Embedding, Act::Normed, 0)])?,
            layers: (0..config.num_layers()).map(|layer| self.layer(layer)).collect::<Result<_>>()?,
            final_norm: self.vector(&self.source.vector(Role::FinalNorm)?)?,
            head,
        })
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights<CudaLinear, Vector>> {
        let ffn = FeedForward::Dense { gate_up: self.linear(&gate_up(layer))?, down: self.linear(&down(layer))? };
        let host = layer_weights(self.source, layer, |parts| self.linear(parts), ffn)?;
        let optional = |values: Option<Vec<f32>>| values.map(|values| self.vector(&values)).transpose();
        Ok(LayerWeights {
            attn_norm: self.vector(&host.attn_norm)?,
            qkv: host.qkv,
            heads: self.heads(host.heads)?,
            attn_output: host.attn_output,
            attn_post_norm: optional(host.attn_post_norm)?,
            ffn_norm: self.vector(&host.ffn_norm)?,
            ffn: host.ffn,
            ffn_post_norm: optional(host.ffn_post_norm)?,
        })
    }

    fn heads(&self, heads: HeadTransform<Vec<f32>>) -> Result<HeadTransform<Vector>> {
        let padding = self.padding;
        let norm =
            |weight: Option<Vec<f32>>| weight.map(|weight| self.vector(&padding.norm_weight(&weight))).transpose();
        Ok(HeadTransform {
            bias: heads.bias.map(|bias| self.vector(&padding.pad(&bias))).transpose()?,
            query_norm: norm(heads.query_norm)?,
            key_norm: norm(heads.key_norm)?,
            rope: heads.rope,
        })
    }

    fn vector(&self, values: &[f32]) -> Result<Vector> {
        DeviceBuffer::from_slice(self.context, values)
    }

    /// Matrices that read one input, each with its output. Their places in it follow from the order.
    fn linear(&self, parts: &[MatrixPlace]) -> Result<CudaLinear> {
        let mut weight = Vec::new();
        for &(role, ..) in parts {
            self.append(role, &mut weight)?;
        }
        let (_, cols) = matrix_shape(self.source, self.padding, parts[0].0)?;
        Ok(CudaLinear { weight: DeviceBuffer::from_slice(self.context, &weight)?, cols, output: parts[0].1 })
    }

    /// Appends the matrix, (rows, cols), its columns in the model's order.
    fn append(&self, role: Role, out: &mut Vec<bf16>) -> Result<()> {
        let part = self.source.part(role)?;
        let checkpoint = &self.source.checkpoint;
        let (rows, cols) = matrix_shape(self.source, self.padding, role)?;
        let start = out.len();
        out.resize(start + rows * cols, bf16::ZERO);
        let source = checkpoint.rows(&part.name)?;
        let order = checkpoint.column_order(&part.name);
        let columns: Vec<usize> =
            (0..source.cols()).map(|col| order.map_or(col, |order| order[col] as usize)).collect();
        let reader = MatrixReader {
            source: &*source,
            row_of: &|row| self.source_row(role, row).map(|row| (part.row_of)(row)),
            columns: columns.into_iter().map(|col| self.padded_column(role, col)).collect(),
        };
        let share = rows.div_ceil(self.threads).next_multiple_of(PANEL_ROWS);
        std::thread::scope(|scope| {
            for (i, out) in out[start..].chunks_mut(share * cols).enumerate() {
                let reader = &reader;
                scope.spawn(move || reader.read(i * share, cols, out));
            }
        });
        checkpoint.release(&part.name);
        Ok(())
    }

    /// The role's own row in row `row` on the device. None: padding.
    fn source_row(&self, role: Role, row: usize) -> Option<usize> {
        if has_head_rows(role) { self.padding.source(row) } else { Some(row) }
    }

    /// Where column `col` of the role is on the device.
    fn padded_column(&self, role: Role, col: usize) -> usize {
        let HeadPadding { real, padded } = self.padding;
        if matches!(role, Role::AttnOutput(_)) { col / real * padded + col % real } else { col }
    }
}

/// Rows and columns on the device.
fn matrix_shape(source: &Source, padding: HeadPadding, role: Role) -> Result<(usize, usize)> {
    let part = source.part(role)?;
    let info = source.checkpoint.info(&part.name)?;
    let cols = info.shape.last().copied().unwrap_or(0);
    let pad = |side: usize, has_heads: bool| if has_heads { side / padding.real * padding.padded } else { side };
    Ok((pad(part.rows, has_head_rows(role)), pad(cols, matches!(role, Role::AttnOutput(_)))))
}

fn has_head_rows(role: Role) -> bool {
    matches!(role, Role::Query(_) | Role::Key(_) | Role::Value(_))
}

/// Rows of a checkpoint's matrix, as they lie on the device.
struct MatrixReader<'a> {
    source: &'a dyn RowSource,
    /// The checkpoint's row in a row of the device's. None: zeros.
    row_of: &'a (dyn Fn(usize) -> Option<usize> + Sync),
    /// Where each of the checkpoint's columns is on the device.
    columns: Vec<usize>,
}

impl MatrixReader<'_> {
    /// Rows from `first` on to `out`, (rows, cols), which is zeros.
    fn read(&self, first: usize, cols: usize, out: &mut [bf16]) {
        let (mut buffer, mut values) = (Vec::new(), vec![0.0; self.source.cols()]);
        for (i, panel) in out.chunks_mut(PANEL_ROWS * cols).enumerate() {
            let rows = first + i * PANEL_ROWS..first + i * PANEL_ROWS + panel.len() / cols;
            let (places, rows): (Vec<usize>, Vec<usize>) =
                rows.enumerate().filter_map(|(place, row)| Some((place, (self.row_of)(row)?))).unzip();
            let bytes = self.source.read(&rows, &mut buffer);
            for (&place, bytes) in places.iter().zip(bytes) {
                dequantize(self.source.dtype(), bytes, &mut values);
                let row = &mut panel[place * cols..][..cols];
                for (&col, &value) in self.columns.iter().zip(&values) {
                    row[col] = bf16::from_f32(value);
                }
            }
        }
    }
}

/// Refuses what the kernels' alignment rules out.
pub fn check(source: &Source) -> Result<HeadPadding> {
    let config = &source.config;
    let unsupported = |what: String| Error::unsupported(source.checkpoint.path(), what);
    let padding = HeadPadding::new(config.head_dim).ok_or_else(|| {
        unsupported(format!("GPUs run heads of up to 256 dimensions, and these have {}", config.head_dim))
    })?;
    for (what, size) in [("the hidden size", config.hidden_size), ("the feed-forward size", config.intermediate_size)] {
        if !size.is_multiple_of(8) {
            return Err(unsupported(format!("{what} is {size}: GPUs run multiples of 8")));
        }
    }
    if config.hidden_size > 16384 {
        return Err(unsupported(format!("the hidden size is {}: GPUs run up to 16384", config.hidden_size)));
    }
    match config.ropes.iter().find(|rope| !rope.dim.is_multiple_of(16)) {
        Some(rope) => Err(unsupported(format!("{} rotating dimensions: GPUs run multiples of 16", rope.dim))),
        None => Ok(padding),
    }
}
