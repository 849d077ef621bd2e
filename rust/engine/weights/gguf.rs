//! GGUF versions 2 and 3. Source: the format's specification in ggml's docs/gguf.md.

mod header;
mod reader;
mod strings;
mod types;
mod writer;

use std::collections::HashMap;
use std::path::Path;

use self::header::Header;
pub use self::strings::Strings;
use self::types::TensorType;
pub use self::writer::{GgufWriter, NewTensor, Pairs};
use super::mmap::MappedFile;
use super::{Checkpoint, TensorView};
use crate::error::{Error, Result};

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    String(String),
    /// Arrays of numbers and strings only, as GGUF writers make them.
    Strings(Strings),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
}

impl Value {
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U64(value) => Some(value),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }

    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F64(value) => Some(value),
            Self::U64(value) => Some(value as f64),
            Self::I64(value) => Some(value as f64),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }
}

/// A memory-mapped GGUF file, its header checked.
#[derive(Debug)]
pub struct Gguf {
    file: MappedFile,
    header: Header,
    /// Tensor name to its place in `header.tensors`.
    by_name: HashMap<String, usize>,
}

impl Gguf {
    pub fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let header = Header::parse(path, file.bytes())?;
        let by_name = header.tensors.iter().enumerate().map(|(id, tensor)| (tensor.name.clone(), id)).collect();
        Ok(Self { file, header, by_name })
    }

    pub fn get(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// A key's type and value as the file has them.
    pub fn raw(&self, key: &str) -> Option<&[u8]> {
        self.header.metadata.range(key).map(|range| &self.file.bytes()[range])
    }

    /// Keys in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.header.metadata.keys()
    }
}

impl Checkpoint for Gguf {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn files(&self) -> Vec<&Path> {
        vec![self.file.path()]
    }

    fn tensor_names(&self) -> Vec<&str> {
        self.header.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
    }

    /// None also for a tensor whose type Ferrule cannot read; `tensor` says so.
    fn find(&self, name: &str) -> Option<TensorView<'_>> {
        let tensor = &self.header.tensors[*self.by_name.get(name)?];
        let TensorType::Runs(dtype) = tensor.kind else { return None };
        let bytes = &self.file.bytes()[tensor.range.clone()];
        Some(TensorView { name: &tensor.name, dtype, shape: tensor.shape.clone(), bytes: bytes.into() })
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        if let Some(view) = self.find(name) {
            return Ok(view);
        }
        Err(match self.by_name.get(name) {
            Some(&id) => {
                let kind = self.header.tensors[id].kind;
                Error::unsupported(self.path(), format!("tensor '{name}' is {kind}, which Ferrule cannot run yet"))
            }
            None => Error::corrupt(self.path(), format!("tensor '{name}' is missing")),
        })
    }

    fn gguf(&self) -> Option<&Gguf> {
        Some(self)
    }

    fn note(&self, key: &str) -> Option<String> {
        self.get(key)?.as_str().map(str::to_owned)
    }

    fn release(&self, name: &str) {
        if let Some(&id) = self.by_name.get(name) {
            self.file.release(&self.file.bytes()[self.header.tensors[id].range.clone()]);
        }
    }
}
