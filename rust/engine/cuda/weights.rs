//! From a checkpoint to matrices on the device, tensor by tensor.

use std::sync::Arc;

use half::{bf16, f16};

use super::driver::{Context, DeviceBuffer, DeviceNumber};
use super::heads::HeadPadding;
use super::launch::{MAX_EXPERTS, MAX_ORDERED, MAX_PER_TOKEN};
use super::matrix::{CodesPanel, CudaMatrix, HostCodes, Storage};
use crate::backend::profiled::Weights;
use crate::backend::{Act, HeadTransform};
use crate::error::{Error, Result};
use crate::model::{DecoderWeights, Experts, ExpertsConfig, FeedForward, LayerWeights, ModelConfig, Role, Source};
use crate::quant::{BlockParts, PANEL_ROWS, dequantize};
use crate::runner::{MatrixPlace, attn_output, down, expert_downs, expert_gates, gate_up, layer_weights, qkv, router};
use crate::weights::RowSource;

type Vector = DeviceBuffer<f32>;

/// A model on the device.
pub type CudaWeights = DecoderWeights<CudaLinear, Vector>;

/// Matrices that read one input, below each other: (rows, cols).
#[derive(Debug)]
pub struct CudaLinear {
    pub matrix: CudaMatrix,
    pub rows: usize,
    pub cols: usize,
    pub output: Act,
    /// (cols,): the input's column that each of the matrix's columns reads. None: its own.
    pub order: Option<DeviceBuffer<i32>>,
}

impl Weights for CudaLinear {
    fn num_bytes(&self) -> usize {
        self.matrix.num_bytes()
    }

    fn num_weights(&self) -> usize {
        self.rows * self.cols
    }
}

/// The matrices that read one input, for all of the model.
fn linears(config: &ModelConfig) -> Vec<Vec<MatrixPlace>> {
    let mut linears = vec![embedding().to_vec()];
    linears.extend((!config.tie_embeddings).then(|| head().to_vec()));
    for layer in 0..config.num_layers() {
        linears.extend([qkv(config, layer).to_vec(), attn_output(layer).to_vec()]);
        linears.extend(match config.experts {
            None => vec![gate_up(layer).to_vec(), down(layer).to_vec()],
            Some(experts) => {
                vec![router(layer).to_vec(), expert_gates(layer, experts), expert_downs(layer, experts)]
            }
        });
    }
    linears
}

fn embedding() -> [MatrixPlace; 1] {
    [(Role::Embedding, Act::Normed, 0)]
}

fn head() -> [MatrixPlace; 1] {
    [(Role::Head, Act::Normed, 0)]
}

/// Bytes that the matrices take on the device.
pub fn weight_bytes(source: &Source, padding: HeadPadding) -> Result<u64> {
    let mut bytes = 0;
    for parts in linears(&source.config) {
        let form = Form::of(source, padding, &parts)?;
        for &(role, ..) in &parts {
            let (rows, cols) = form.shape(source, padding, role)?;
            bytes += form.storage.num_bytes(rows, cols) as u64;
        }
        bytes += 4 * form.gathered(&parts).map_or(0, <[u32]>::len) as u64;
    }
    Ok(bytes)
}

/// How matrices that read one input lie on the device.
struct Form<'a> {
    storage: Storage,
    /// Of columns, where codes are kept in an order of their own (act-order).
    order: Option<&'a [u32]>,
}

impl<'a> Form<'a> {
    const BF16: Self = Self { storage: Storage::Bf16, order: None };

    /// f16 where all of the matrices are; codes where all of them have codes and whole panels, and where their blocks of columns
    /// stay together; else bf16. No codes are the embedding, whose rows are looked up.
    fn of(source: &'a Source, padding: HeadPadding, parts: &[MatrixPlace]) -> Result<Self> {
        let order_of = |role| Ok::<_, Error>(source.checkpoint.column_order(&source.part(role)?.name));
        let order = order_of(parts[0].0)?;
        let (mut common, mut stays_in_codes) = (None, true);
        for &(role, ..) in parts {
            let dtype = source.checkpoint.info(&source.part(role)?.name)?.dtype;
            let (rows, cols) = Self { order, ..Self::BF16 }.shape(source, padding, role)?;
            let whole_panels = parts.len() == 1 || rows.is_multiple_of(PANEL_ROWS);
            let whole_groups = order.is_some() || !has_head_columns(role) || padding.keeps_groups(dtype.block_len());
            let orderable = order.is_none() || (takes_order(role) && (made_in_order(role) || cols <= MAX_ORDERED));
            stays_in_codes &= role != Role::Embedding && whole_panels && whole_groups && orderable;
            stays_in_codes &= order_of(role)? == order;
            let storage = Storage::of(dtype);
            common = Some(common.map_or(storage, |common: Storage| common.common(storage)));
        }
        Ok(match common {
            Some(Storage::F16) => Self { storage: Storage::F16, order: None },
            Some(storage) if storage != Storage::Bf16 && stays_in_codes => Self { storage, order },
            _ => Self::BF16,
        })
    }

    /// The order that the input is put into before a product.
    fn gathered(&self, parts: &[MatrixPlace]) -> Option<&'a [u32]> {
        self.order.filter(|_| !made_in_order(parts[0].0))
    }

    /// Rows and columns on the device. Heads' columns in an order of their own need no padding.
    fn shape(&self, source: &Source, padding: HeadPadding, role: Role) -> Result<(usize, usize)> {
        let part = source.part(role)?;
        let info = source.checkpoint.info(&part.name)?;
        let cols = info.shape.last().copied().unwrap_or(0);
        let pad = |side: usize, is_padded: bool| if is_padded { side / padding.real * padding.padded } else { side };
        Ok((pad(part.rows, has_head_rows(role)), pad(cols, has_head_columns(role) && self.order.is_none())))
    }
}

/// Takes every matrix from the source. Its pages are given back as soon as they are copied.
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
        let head = (!config.tie_embeddings).then(|| self.linear(&head())).transpose()?;
        Ok(DecoderWeights {
            embedding: self.linear(&embedding())?,
            layers: (0..config.num_layers()).map(|layer| self.layer(layer)).collect::<Result<_>>()?,
            final_norm: self.vector(&self.source.vector(Role::FinalNorm)?)?,
            head,
        })
    }

    fn layer(&self, layer: usize) -> Result<LayerWeights<CudaLinear, Vector>> {
        let ffn = match self.source.config.experts {
            None => FeedForward::Dense { gate_up: self.linear(&gate_up(layer))?, down: self.linear(&down(layer))? },
            Some(config) => FeedForward::Experts(Experts {
                router: self.linear(&router(layer))?,
                gate_up: self.linear(&expert_gates(layer, config))?,
                down: self.linear(&expert_downs(layer, config))?,
                config,
            }),
        };
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
        let form = Form::of(self.source, self.padding, parts)?;
        let (mut rows, mut cols) = (0, 0);
        for &(role, ..) in parts {
            let shape = form.shape(self.source, self.padding, role)?;
            (rows, cols) = (rows + shape.0, shape.1);
        }
        let matrix = match form.storage {
            Storage::Bf16 => CudaMatrix::Bf16(self.plain(parts, rows * cols, bf16::from_f32)?),
            Storage::F16 => CudaMatrix::F16(self.plain(parts, rows * cols, f16::from_f32)?),
            codes => self.codes(parts, &form, HostCodes::new(codes, rows, cols))?,
        };
        let order = form.gathered(parts).map(|order| {
            let columns = order.iter().map(|&col| self.padded_column(parts[0].0, col as usize) as i32);
            DeviceBuffer::from_slice(self.context, &columns.collect::<Vec<_>>())
        });
        Ok(CudaLinear { matrix, rows, cols, output: parts[0].1, order: order.transpose()? })
    }

    /// The order of columns of the matrix that reads the outputs of `role`, which then are made in this order.
    fn reader_order(&self, role: Role) -> Result<Option<&[u32]>> {
        match role {
            Role::Gate(layer) | Role::Up(layer) => Ok(Form::of(self.source, self.padding, &down(layer))?.order),
            _ => Ok(None),
        }
    }

    /// The matrices without codes, whatever they are in the checkpoint.
    fn plain<T: DeviceNumber + Send>(
        &self,
        parts: &[MatrixPlace],
        len: usize,
        round: fn(f32) -> T,
    ) -> Result<DeviceBuffer<T>> {
        let mut weight = vec![T::default(); len];
        let mut rest = &mut weight[..];
        for &(role, ..) in parts {
            let (rows, cols) = Form::BF16.shape(self.source, self.padding, role)?;
            let (out, after) = rest.split_at_mut(rows * cols);
            rest = after;
            let panels = out.chunks_mut(PANEL_ROWS * cols).enumerate().collect();
            let in_order = self.source.checkpoint.column_order(&self.source.part(role)?.name);
            let columns = |col: usize| self.padded_column(role, in_order.map_or(col, |order| order[col] as usize));
            self.read(role, &columns, panels, |reader, panel, out| reader.read_plain(panel, cols, round, out))?;
        }
        DeviceBuffer::from_slice(self.context, &weight)
    }

    fn codes(&self, parts: &[MatrixPlace], form: &Form<'_>, mut host: HostCodes) -> Result<CudaMatrix> {
        let mut panels = host.panels().into_iter();
        for &(role, ..) in parts {
            let (rows, _) = form.shape(self.source, self.padding, role)?;
            let columns = |col: usize| if form.order.is_some() { col } else { self.padded_column(role, col) };
            let panels = panels.by_ref().take(rows.div_ceil(PANEL_ROWS)).enumerate().collect();
            self.read(role, &columns, panels, |reader, panel, mut out| reader.read_codes(panel, rows, &mut out))?;
        }
        drop(panels);
        host.upload(self.context)
    }

    /// Has `read` called for every panel of a matrix, by several threads. `column` says where a column is on the device.
    fn read<P: Send>(
        &self,
        role: Role,
        column: &dyn Fn(usize) -> usize,
        panels: Vec<(usize, P)>,
        read: impl Fn(&MatrixReader<'_>, usize, P) + Sync,
    ) -> Result<()> {
        let part = self.source.part(role)?;
        let checkpoint = &self.source.checkpoint;
        let source = checkpoint.rows(&part.name)?;
        let reader_order = self.reader_order(role)?;
        let made = |row: usize| reader_order.map_or(row, |order| order[row] as usize);
        let reader = MatrixReader {
            source: &*source,
            row_of: &|row| self.source_row(role, made(row)).map(|row| (part.row_of)(row)),
            columns: (0..source.cols()).map(column).collect(),
        };
        let share = panels.len().div_ceil(self.threads).max(1);
        let mut panels = panels.into_iter().peekable();
        std::thread::scope(|scope| {
            while panels.peek().is_some() {
                let panels: Vec<_> = panels.by_ref().take(share).collect();
                let (reader, read) = (&reader, &read);
                scope.spawn(move || panels.into_iter().for_each(|(panel, out)| read(reader, panel, out)));
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
        if has_head_columns(role) { col / real * padded + col % real } else { col }
    }
}

/// Whether the input of the role's matrix can be had in another order.
fn takes_order(role: Role) -> bool {
    use Role::*;
    matches!(role, Query(_) | Key(_) | Value(_) | AttnOutput(_) | Gate(_) | Up(_) | Down(_))
}

/// Whether what makes the input makes it in the matrix's order.
fn made_in_order(role: Role) -> bool {
    matches!(role, Role::Down(_))
}

fn has_head_rows(role: Role) -> bool {
    matches!(role, Role::Query(_) | Role::Key(_) | Role::Value(_))
}

fn has_head_columns(role: Role) -> bool {
    matches!(role, Role::AttnOutput(_))
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
    /// The rows of a panel of `num_rows` that are no padding: place in the panel, and number in the checkpoint.
    fn rows(&self, panel: usize, num_rows: usize) -> (Vec<usize>, Vec<usize>) {
        let first = panel * PANEL_ROWS;
        (0..num_rows).filter_map(|place| Some((place, (self.row_of)(first + place)?))).unzip()
    }

    /// To `out`, (rows, cols), which is zeros.
    fn read_plain<T>(&self, panel: usize, cols: usize, round: fn(f32) -> T, out: &mut [T]) {
        let (mut buffer, mut values) = (Vec::new(), vec![0.0; self.source.cols()]);
        let (places, rows) = self.rows(panel, out.len() / cols);
        let bytes = self.source.read(&rows, &mut buffer);
        for (&place, bytes) in places.iter().zip(bytes) {
            dequantize(self.source.dtype(), bytes, &mut values);
            let row = &mut out[place * cols..][..cols];
            for (&col, &value) in self.columns.iter().zip(&values) {
                row[col] = round(value);
            }
        }
    }

    /// To a panel of zeros, of a matrix of `num_rows`.
    fn read_codes(&self, panel: usize, num_rows: usize, out: &mut CodesPanel<'_>) {
        let (mut buffer, mut block_parts) = (Vec::new(), BlockParts::new());
        let (places, rows) = self.rows(panel, PANEL_ROWS.min(num_rows - panel * PANEL_ROWS));
        let (bytes, dtype) = (self.source.read(&rows, &mut buffer), self.source.dtype());
        for (&place, bytes) in places.iter().zip(bytes) {
            let blocks = self.columns.iter().step_by(dtype.block_len()).zip(bytes.chunks_exact(dtype.block_bytes()));
            for (&col, block) in blocks {
                out.write(place, col, dtype, block, &mut block_parts);
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
    if let Some(ExpertsConfig { count, per_token, .. }) = config.experts
        && (count > MAX_EXPERTS || per_token > MAX_PER_TOKEN)
    {
        return Err(unsupported(format!(
            "{per_token} of {count} experts for a token: GPUs run up to {MAX_PER_TOKEN} of {MAX_EXPERTS}"
        )));
    }
    match config.ropes.iter().find(|rope| !rope.dim.is_multiple_of(16)) {
        Some(rope) => Err(unsupported(format!("{} rotating dimensions: GPUs run multiples of 16", rope.dim))),
        None => Ok(padding),
    }
}
