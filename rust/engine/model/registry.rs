//! Opened models: which tensor, and which rows of it, serve which role.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::families::{Family, RowOrder};
use super::hf_config::HfConfig;
use super::names::{HF_PREFIXES, Naming, Place};
use super::{ModelConfig, Role, checks, gguf_config, hf_config};
use crate::config::Quantization;
use crate::error::{Error, Result};
use crate::quant::DType;
use crate::weights::{Checkpoint, Float8Dir, Gguf, GroupedDir, RoundedCheckpoint, SafetensorsDir, TensorInfo};

/// Rows of a tensor in a file. Phi-3 keeps q, k, v in one tensor; GGUF's llama files keep the rows of q and
/// k in the order of interleaved RoPE pairs, and `row_of` undoes it, so that one RoPE (half-split) serves all.
pub struct TensorPart {
    pub name: String,
    pub rows: usize,
    /// Source row of output row `r`.
    pub row_of: Box<dyn Fn(usize) -> usize + Send + Sync>,
}

/// An opened model: configuration and tensors.
pub struct Source {
    pub config: ModelConfig,
    pub checkpoint: Box<dyn Checkpoint>,
    family: &'static Family,
    naming: Naming,
}

impl Source {
    /// The same model with its matrices rounded while they are read. Norms and biases stay as they are, and so does
    /// a matrix that is quantized or whose rows are no whole blocks. Refuses a model with nothing to round.
    pub fn quantized(mut self, quantization: Quantization) -> Result<Self> {
        let mut types = HashMap::new();
        for (role, name, TensorInfo { dtype, shape }) in self.unquantized()? {
            let cols = shape.last().copied().unwrap_or(0);
            match rounded_type(quantization, role, cols) {
                Some(dtype) => drop(types.insert(name, dtype)),
                None => tracing::warn!("'{name}' stays {dtype}: its {cols} columns are no whole groups of 32"),
            }
        }
        if types.is_empty() {
            let what = format!("nothing to round to {quantization}: no matrix is F32, F16 or BF16");
            return Err(Error::unsupported(self.checkpoint.path(), what));
        }
        self.checkpoint = Box::new(RoundedCheckpoint::new(self.checkpoint, types));
        Ok(self)
    }

    /// Whether `quantized` has something to round.
    pub fn can_be_quantized(&self, quantization: Quantization) -> Result<bool> {
        let whole = |(role, _, info): &(Role, String, TensorInfo)| {
            info.shape.last().is_some_and(|&cols| rounded_type(quantization, *role, cols).is_some())
        };
        Ok(self.unquantized()?.iter().any(whole))
    }

    /// The matrices of full precision, and of FP8.
    fn unquantized(&self) -> Result<Vec<(Role, String, TensorInfo)>> {
        let mut found = Vec::new();
        let is_rounded = |role: &Role| role.is_matrix() && !role.is_kept();
        for role in roles(&self.config).into_iter().filter(is_rounded) {
            let name = self.part(role)?.name;
            let info = self.checkpoint.info(&name)?;
            if matches!(info.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F8_E4M3) {
                found.push((role, name, info));
            }
        }
        Ok(found)
    }

    /// Where the rows of `role` are, checked against the configuration's shapes.
    pub fn part(&self, role: Role) -> Result<TensorPart> {
        let place = self.naming.place(role, &self.config, self.family);
        self.check_shape(&place)?;
        let Place { name, rows, first_row, .. } = place;
        let row_of: Box<dyn Fn(usize) -> usize + Send + Sync> = match self.row_order(role) {
            RowOrder::HalfSplit => Box::new(move |row| first_row + row),
            RowOrder::Interleaved => {
                let head_dim = self.config.head_dim;
                Box::new(move |row| first_row + interleaved_row(row, head_dim))
            }
        };
        Ok(TensorPart { name, rows, row_of })
    }

    /// Where a Hugging Face folder of this model has a role.
    pub(crate) fn hf_place(&self, role: Role) -> Place {
        let naming = match self.naming {
            Naming::Gguf => Naming::HuggingFace { body: HF_PREFIXES[0].0, head: HF_PREFIXES[0].1 },
            folder => folder,
        };
        naming.place(role, &self.config, self.family)
    }

    /// Where a GGUF file of this model has a role.
    pub(crate) fn gguf_place(&self, role: Role) -> Place {
        Naming::Gguf.place(role, &self.config, self.family)
    }

    /// The row of a GGUF file's tensor, below the role's first one, that is row `row` of the role.
    pub(crate) fn gguf_row(&self, role: Role, row: usize) -> usize {
        match self.family.gguf_row_order {
            RowOrder::Interleaved if rotates(role) => interleaved_row(row, self.config.head_dim),
            _ => row,
        }
    }

    pub(crate) fn gguf_arch(&self) -> &'static str {
        // Families without a name of their own there differ from llama by nothing that such a file says.
        self.family.gguf_arch.unwrap_or("llama")
    }

    pub(crate) fn family(&self) -> &'static Family {
        self.family
    }

    /// A norm weight or bias as float32, `row_of` and `norm_weight_offset` (norms only) applied.
    pub fn vector(&self, role: Role) -> Result<Vec<f32>> {
        let part = self.part(role)?;
        let values = self.checkpoint.floats(&part.name)?;
        let offset = if role.is_norm() { self.config.norm_weight_offset } else { 0.0 };
        Ok((0..part.rows).map(|row| values[(part.row_of)(row)] + offset).collect())
    }

    fn row_order(&self, role: Role) -> RowOrder {
        match self.naming {
            Naming::Gguf if rotates(role) => self.family.gguf_row_order,
            _ => RowOrder::HalfSplit,
        }
    }

    fn check_shape(&self, place: &Place) -> Result<()> {
        let info = self.checkpoint.info(&place.name)?;
        let expected = place.shape();
        if info.shape == expected {
            return Ok(());
        }
        let what =
            format!("tensor '{}' has the shape {:?}; the configuration needs {expected:?}", place.name, info.shape);
        Err(Error::corrupt(self.checkpoint.path(), what))
    }

    /// Every tensor that the model needs is there, and every tensor of a layer is used.
    fn check(&self) -> Result<()> {
        if let Some(rule) = checks::broken_rule(&self.config) {
            return Err(Error::corrupt(self.checkpoint.path(), rule));
        }
        if self.naming == Naming::Gguf
            && self.family.gguf_row_order == RowOrder::Interleaved
            && self.config.ropes.iter().any(|rope| rope.dim != self.config.head_dim)
        {
            return Err(Error::unsupported(self.checkpoint.path(), "heads that rotate in part cannot run yet"));
        }
        let mut used = HashSet::new();
        for role in roles(&self.config) {
            used.insert(self.part(role)?.name);
        }
        let prefix = self.naming.layer_prefix();
        let mut names = self.checkpoint.tensor_names().into_iter();
        let unused = names.find(|name| name.starts_with(&prefix) && !used.contains(*name) && !is_derived(name));
        match unused {
            None => Ok(()),
            Some(name) => {
                let what = format!("tensor '{name}' has no place in the {} architecture", self.family.name);
                Err(Error::unsupported(self.checkpoint.path(), what))
            }
        }
    }
}

/// What a matrix of `cols` columns is rounded to. None: its rows are no whole blocks. Four bits have zero points and
/// groups of 32: of the layouts with at most five bits a weight, that lost the least perplexity by far.
fn rounded_type(quantization: Quantization, role: Role, cols: usize) -> Option<DType> {
    let choices: &[DType] = match (quantization, role) {
        (Quantization::Int8, _) => &[DType::Q8_0],
        (Quantization::Int4, Role::Embedding | Role::Head) => &[DType::Q6_K, DType::Q8_0],
        (Quantization::Int4, _) => &[DType::U4G32],
    };
    choices.iter().copied().find(|dtype| cols.is_multiple_of(dtype.block_len()))
}

/// The roles that a model has.
pub fn roles(config: &ModelConfig) -> Vec<Role> {
    use Role::*;
    let mut roles = vec![Embedding, FinalNorm];
    roles.extend((!config.tie_embeddings).then_some(Head));
    for i in 0..config.num_layers() {
        roles.extend([AttnNorm(i), Query(i), Key(i), Value(i), AttnOutput(i), FfnNorm(i)]);
        match config.experts {
            None => roles.extend([Gate(i), Up(i), Down(i)]),
            Some(experts) => {
                roles.push(Router(i));
                roles.extend((0..experts.count).flat_map(|e| [ExpertGate(i, e), ExpertUp(i, e), ExpertDown(i, e)]));
            }
        }
        if config.qkv_bias {
            roles.extend([QueryBias(i), KeyBias(i), ValueBias(i)]);
        }
        if config.qk_norm {
            roles.extend([QueryNorm(i), KeyNorm(i)]);
        }
        if config.post_norms {
            roles.extend([AttnPostNorm(i), FfnPostNorm(i)]);
        }
    }
    roles
}

/// Tables that old files carry though they follow from the configuration.
fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name.ends_with("attn_rot_embd")
}

fn rotates(role: Role) -> bool {
    matches!(role, Role::Query(_) | Role::Key(_) | Role::QueryBias(_) | Role::KeyBias(_))
}

/// The row with interleaved pairs that holds row `row` of the half-split order.
fn interleaved_row(row: usize, head_dim: usize) -> usize {
    let (head, row) = (row / head_dim, row % head_dim);
    let (half, pair) = (row / (head_dim / 2), row % (head_dim / 2));
    head * head_dim + 2 * pair + half
}

/// Opens a model as it will run: its matrices rounded, if they are to be.
pub fn open_as(path: &Path, quantization: Option<Quantization>) -> Result<Source> {
    let source = open(path)?;
    match quantization {
        Some(quantization) => source.quantized(quantization),
        None => Ok(source),
    }
}

/// Opens a `.gguf` file or a Hugging Face folder.
pub fn open(path: &Path) -> Result<Source> {
    let meta = std::fs::metadata(path).map_err(|err| Error::io(path, err))?;
    let source = if meta.is_dir() { open_folder(path)? } else { open_gguf(path)? };
    source.check()?;
    Ok(source)
}

fn open_gguf(path: &Path) -> Result<Source> {
    let gguf = Gguf::open(path)?;
    let (family, config) = gguf_config::read(&gguf)?;
    Ok(Source { config, checkpoint: Box::new(gguf), family, naming: Naming::Gguf })
}

fn open_folder(path: &Path) -> Result<Source> {
    let HfConfig { family, model: mut config, quantization } = hf_config::read(path)?;
    let folder = SafetensorsDir::open(path)?;
    let checkpoint: Box<dyn Checkpoint> = match quantization {
        None => Box::new(folder),
        Some(quantization) if Float8Dir::is_meant(&quantization) => Box::new(Float8Dir::new(folder, &quantization)?),
        Some(quantization) => Box::new(GroupedDir::new(folder, &quantization)?),
    };
    let embedding = |body: &str| checkpoint.info(&format!("{body}embed_tokens.weight")).ok().map(|info| info.shape);
    let Some((body, head, shape)) = HF_PREFIXES.iter().find_map(|&(body, head)| Some((body, head, embedding(body)?)))
    else {
        return Err(Error::corrupt(path, "tensor 'model.embed_tokens.weight' is missing"));
    };
    let has_head = checkpoint.tensor_names().contains(&format!("{head}lm_head.weight").as_str());
    config.vocab_size = shape.first().copied().unwrap_or(0);
    config.tie_embeddings |= !has_head;
    Ok(Source { config, checkpoint, family, naming: Naming::HuggingFace { body, head } })
}
