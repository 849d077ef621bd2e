//! Checkpoints: where tensors lie in files. What they mean is the model registry's business.

mod float8;
mod gguf;
mod grouped;
mod mmap;
mod overlay;
pub mod packed;
mod rounded;
mod rows;
pub(crate) mod safetensors;

use std::borrow::Cow;
use std::path::Path;

pub use self::float8::Float8Dir;
pub use self::gguf::{Gguf, GgufWriter, NewTensor, Pairs, Strings, Value};
pub use self::grouped::GroupedDir;
pub(crate) use self::mmap::MappedFile;
pub use self::rounded::RoundedCheckpoint;
pub use self::rows::{PanelRows, RowSource};
pub use self::safetensors::SafetensorsDir;
use crate::error::Result;
use crate::quant::{DType, dequantize};

/// A tensor as it lies in its file.
#[derive(Debug, Clone)]
pub struct TensorView<'a> {
    pub name: &'a str,
    pub dtype: DType,
    /// Row-major, outermost first: a matrix is [rows, cols]. (GGUF files store it the other way round.)
    pub shape: Vec<usize>,
    /// Exactly the tensor's bytes; quantized types never straddle rows.
    pub bytes: Cow<'a, [u8]>,
}

/// What a tensor is, without its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: DType,
    pub shape: Vec<usize>,
}

impl TensorInfo {
    pub fn num_bytes(&self) -> usize {
        self.dtype.num_bytes(&self.shape).expect("tensors were checked when they were opened")
    }
}

/// A set of named tensors, memory-mapped.
pub trait Checkpoint: Send + Sync {
    fn path(&self) -> &Path;

    /// What holds the tensors.
    fn files(&self) -> Vec<&Path>;

    fn tensor_names(&self) -> Vec<&str>;

    fn find(&self, name: &str) -> Option<TensorView<'_>>;

    /// What `tensor` has, without reading (or converting) its numbers.
    fn info(&self, name: &str) -> Result<TensorInfo> {
        self.tensor(name).map(|view| TensorInfo { dtype: view.dtype, shape: view.shape })
    }

    /// `find`, or an error that names the file and the tensor.
    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.find(name).ok_or_else(|| crate::Error::corrupt(self.path(), format!("tensor '{name}' is missing")))
    }

    /// A matrix, row by row: what is not in a block type in its file is converted as it is read.
    fn rows(&self, name: &str) -> Result<Box<dyn RowSource + '_>> {
        Ok(Box::new(self.tensor(name)?))
    }

    /// (cols,): which of the model's columns stands in each column of the matrix. None: each in its own.
    fn column_order(&self, _name: &str) -> Option<&[u32]> {
        None
    }

    /// All numbers of a small tensor as float32.
    fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let view = self.tensor(name)?;
        let mut out = vec![0.0; view.shape.iter().product()];
        dequantize(view.dtype, &view.bytes, &mut out);
        Ok(out)
    }

    /// The GGUF file, which carries a tokenizer as well.
    fn gguf(&self) -> Option<&Gguf> {
        None
    }

    /// A text that the files carry beside their tensors.
    fn note(&self, _key: &str) -> Option<String> {
        None
    }

    /// Tells the system that a tensor's pages are not needed any more (it was repacked).
    fn release(&self, name: &str);
}
