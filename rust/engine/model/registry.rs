//! The only place with family names: which architectures run, and where their tensors are.

use std::path::Path;

use super::ModelConfig;
use crate::error::Result;
use crate::weights::Checkpoint;

/// What a tensor is for. Layer indices count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Embedding,
    FinalNorm,
    /// Only if the embeddings are not tied.
    Head,
    AttnNorm(usize),
    Query(usize),
    Key(usize),
    Value(usize),
    QueryBias(usize),
    KeyBias(usize),
    ValueBias(usize),
    QueryNorm(usize),
    KeyNorm(usize),
    AttnOutput(usize),
    AttnPostNorm(usize),
    FfnNorm(usize),
    Gate(usize),
    Up(usize),
    Down(usize),
    FfnPostNorm(usize),
}

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
}

impl Source {
    /// Where the rows of `role` are, checked against the configuration's shapes.
    pub fn part(&self, _role: Role) -> Result<TensorPart> {
        todo!()
    }

    /// A norm weight or bias as float32, `row_of` and `norm_weight_offset` (norms only) applied.
    pub fn vector(&self, _role: Role) -> Result<Vec<f32>> {
        todo!()
    }
}

/// Opens a `.gguf` file or a Hugging Face folder.
pub fn open(_path: &Path) -> Result<Source> {
    todo!()
}
