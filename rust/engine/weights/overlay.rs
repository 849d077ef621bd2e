//! Checkpoints that read some of another's matrices in another form.

use std::path::Path;

use super::{Checkpoint, Gguf, RowSource, TensorInfo, TensorView};
use crate::error::Result;
use crate::quant::PANEL_ROWS;

/// What such a checkpoint has to tell; the rest is the other one's.
pub trait Overlay: Send + Sync {
    fn under(&self) -> &dyn Checkpoint;

    fn names(&self) -> Vec<&str> {
        self.under().tensor_names()
    }

    /// What the matrix is here, without reading its numbers. None: the same as there.
    fn converted_info(&self, name: &str) -> Option<TensorInfo>;

    /// A matrix that `converted_info` knows: its rows, and its name.
    fn converted(&self, name: &str) -> Result<(&str, Box<dyn RowSource + '_>)>;

    /// `Checkpoint::column_order`.
    fn order(&self, name: &str) -> Option<&[u32]> {
        self.under().column_order(name)
    }

    /// The tensors there that a matrix is made of.
    fn parts(&self, name: &str) -> Vec<String> {
        vec![name.to_owned()]
    }
}

impl<T: Overlay> Checkpoint for T {
    fn path(&self) -> &Path {
        self.under().path()
    }

    fn files(&self) -> Vec<&Path> {
        self.under().files()
    }

    fn tensor_names(&self) -> Vec<&str> {
        self.names()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        self.converted_info(name).map_or_else(|| self.under().info(name), Ok)
    }

    fn find(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensor(name).ok()
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let Some(TensorInfo { dtype, shape }) = self.converted_info(name) else { return self.under().tensor(name) };
        let (name, rows) = self.converted(name)?;
        let num_rows: usize = shape[..shape.len() - 1].iter().product();
        let (mut bytes, mut buffer) = (Vec::with_capacity(num_rows * rows.row_bytes()), Vec::new());
        for first in (0..num_rows).step_by(PANEL_ROWS) {
            let panel: Vec<usize> = (first..num_rows.min(first + PANEL_ROWS)).collect();
            rows.read(&panel, &mut buffer).iter().for_each(|row| bytes.extend_from_slice(row));
        }
        Ok(TensorView { name, dtype, shape, bytes: bytes.into() })
    }

    fn rows(&self, name: &str) -> Result<Box<dyn RowSource + '_>> {
        match self.converted_info(name) {
            Some(_) => Ok(self.converted(name)?.1),
            None => self.under().rows(name),
        }
    }

    fn column_order(&self, name: &str) -> Option<&[u32]> {
        self.order(name)
    }

    fn gguf(&self) -> Option<&Gguf> {
        self.under().gguf()
    }

    fn note(&self, key: &str) -> Option<String> {
        self.under().note(key)
    }

    fn release(&self, name: &str) {
        self.parts(name).iter().for_each(|part| self.under().release(part));
    }
}
