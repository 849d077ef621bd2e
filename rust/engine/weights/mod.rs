//! Checkpoints: where tensors lie in files. What they mean is the model registry's business.

mod gguf;
mod mmap;
pub mod packed;
mod safetensors;

use std::path::Path;

pub use self::gguf::{Gguf, Strings, Value};
pub(crate) use self::mmap::MappedFile;
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
    pub bytes: &'a [u8],
}

/// A set of named tensors, memory-mapped.
pub trait Checkpoint: Send + Sync {
    fn path(&self) -> &Path;

    /// What holds the tensors.
    fn files(&self) -> Vec<&Path>;

    fn tensor_names(&self) -> Vec<&str>;

    fn find(&self, name: &str) -> Option<TensorView<'_>>;

    /// `find`, or an error that names the file and the tensor.
    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        self.find(name).ok_or_else(|| crate::Error::corrupt(self.path(), format!("tensor '{name}' is missing")))
    }

    /// All numbers of a small tensor as float32.
    fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let view = self.tensor(name)?;
        let mut out = vec![0.0; view.shape.iter().product()];
        dequantize(view.dtype, view.bytes, &mut out);
        Ok(out)
    }

    /// The GGUF file, which carries a tokenizer as well.
    fn gguf(&self) -> Option<&Gguf> {
        None
    }

    /// Tells the system that a tensor's pages are not needed any more (it was repacked).
    fn release(&self, view: &TensorView<'_>);
}
