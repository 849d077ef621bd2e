//! GGUF versions 2 and 3. Source: the format's specification in ggml's docs/gguf.md.

use std::path::Path;

use super::{Checkpoint, TensorView};
use crate::error::Result;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U64(u64),
    I64(i64),
    F64(f64),
    Bool(bool),
    String(String),
    /// Arrays of numbers and strings only, as GGUF writers make them.
    Strings(Vec<String>),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Bools(Vec<bool>),
}

/// A memory-mapped GGUF file, its header checked.
#[derive(Debug)]
pub struct Gguf {}

impl Gguf {
    pub fn open(_path: &Path) -> Result<Self> {
        todo!()
    }

    pub fn get(&self, _key: &str) -> Option<&Value> {
        todo!()
    }

    /// Keys in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
}

impl Checkpoint for Gguf {
    fn path(&self) -> &Path {
        todo!()
    }

    fn tensor_names(&self) -> Vec<&str> {
        todo!()
    }

    fn find(&self, _name: &str) -> Option<TensorView<'_>> {
        todo!()
    }

    fn release(&self, _view: &TensorView<'_>) {
        todo!()
    }
}
