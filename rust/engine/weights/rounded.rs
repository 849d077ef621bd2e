//! A full-precision checkpoint whose matrices are rounded to block types as they are read, row by row: the rounded
//! model is never in memory beside the other one.

use std::collections::HashMap;
use std::path::Path;

use super::rows::{PanelRows, RowSource, make_rows};
use super::{Checkpoint, Gguf, TensorInfo, TensorView};
use crate::error::Result;
use crate::quant::{DType, PANEL_ROWS, dequantize};
use crate::quantize::round::Codes;

pub struct RoundedCheckpoint {
    inner: Box<dyn Checkpoint>,
    /// The types of the matrices that are rounded, by name.
    types: HashMap<String, DType>,
}

impl RoundedCheckpoint {
    /// Each type is Q8_0 or one of four bits in groups, and its blocks divide the tensor's rows.
    pub fn new(inner: Box<dyn Checkpoint>, types: HashMap<String, DType>) -> Self {
        Self { inner, types }
    }
}

impl Checkpoint for RoundedCheckpoint {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn files(&self) -> Vec<&Path> {
        self.inner.files()
    }

    fn tensor_names(&self) -> Vec<&str> {
        self.inner.tensor_names()
    }

    fn info(&self, name: &str) -> Result<TensorInfo> {
        let info = self.inner.info(name)?;
        Ok(TensorInfo { dtype: self.types.get(name).copied().unwrap_or(info.dtype), ..info })
    }

    fn find(&self, name: &str) -> Option<TensorView<'_>> {
        self.tensor(name).ok()
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let Some((name, &dtype)) = self.types.get_key_value(name) else { return self.inner.tensor(name) };
        let shape = self.inner.info(name)?.shape;
        let rows = Rounded { inner: self.inner.rows(name)?, dtype };
        let (mut bytes, mut buffer) = (Vec::new(), Vec::new());
        let num_rows: usize = shape[..shape.len() - 1].iter().product();
        for first in (0..num_rows).step_by(PANEL_ROWS) {
            let panel: Vec<usize> = (first..num_rows.min(first + PANEL_ROWS)).collect();
            bytes.extend(rows.read(&panel, &mut buffer).concat());
        }
        Ok(TensorView { name, dtype, shape, bytes: bytes.into() })
    }

    fn rows(&self, name: &str) -> Result<Box<dyn RowSource + '_>> {
        let inner = self.inner.rows(name)?;
        match self.types.get(name) {
            Some(&dtype) => Ok(Box::new(Rounded { inner, dtype })),
            None => Ok(inner),
        }
    }

    fn column_order(&self, name: &str) -> Option<&[u32]> {
        self.inner.column_order(name)
    }

    fn gguf(&self) -> Option<&Gguf> {
        self.inner.gguf()
    }

    fn release(&self, name: &str) {
        self.inner.release(name);
    }
}

/// Rows of another type, each number rounded to the nearest that a block of `dtype` has.
struct Rounded<'a> {
    inner: Box<dyn RowSource + 'a>,
    dtype: DType,
}

impl RowSource for Rounded<'_> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn cols(&self) -> usize {
        self.inner.cols()
    }

    fn read<'a>(&'a self, rows: &[usize], buffer: &'a mut Vec<u8>) -> PanelRows<'a> {
        let mut inner_buffer = Vec::new();
        let inner = self.inner.read(rows, &mut inner_buffer);
        let mut numbers = vec![0.0; self.cols()];
        let row_bytes = self.row_bytes();
        make_rows(rows.len(), row_bytes, buffer, |out| {
            for (row, out) in inner.iter().zip(out.chunks_exact_mut(row_bytes)) {
                dequantize(self.inner.dtype(), row, &mut numbers);
                round_row(self.dtype, &numbers, out);
            }
        })
    }
}

/// The blocks of a row.
fn round_row(dtype: DType, numbers: &[f32], out: &mut [u8]) {
    let codes = codes_of(dtype);
    for (numbers, block) in numbers.chunks_exact(dtype.block_len()).zip(out.chunks_exact_mut(dtype.block_bytes())) {
        let step = codes.step(numbers, 1.0);
        let rounder = step.rounder(codes);
        let code = |number: f32| rounder.code(number) as u8;
        let (factors, packed) = block.split_at_mut(2 + usize::from(codes.zero_point));
        factors[..2].copy_from_slice(&step.scale.to_le_bytes());
        if codes.zero_point {
            factors[2] = step.zero;
        }
        match codes.bits {
            8 => packed.iter_mut().zip(numbers).for_each(|(byte, &number)| *byte = code(number) ^ 0x80),
            _ => packed
                .iter_mut()
                .zip(numbers.as_chunks::<2>().0)
                .for_each(|(byte, &[low, high])| *byte = code(low) | code(high) << 4),
        }
    }
}

fn codes_of(dtype: DType) -> Codes {
    match dtype {
        DType::Q8_0 => Codes { bits: 8, zero_point: false },
        DType::I4G32 | DType::I4G64 | DType::I4G128 => Codes { bits: 4, zero_point: false },
        DType::U4G32 | DType::U4G64 | DType::U4G128 => Codes { bits: 4, zero_point: true },
        other => unreachable!("nothing is rounded to {other}"),
    }
}
