//! A full-precision checkpoint whose matrices are rounded to block types as they are read, row by row: the rounded
//! model is never in memory beside the other one.

use std::collections::HashMap;

use super::overlay::Overlay;
use super::rows::{PanelRows, RowSource, make_rows};
use super::{Checkpoint, TensorInfo};
use crate::error::Result;
use crate::quant::{DType, dequantize};
use crate::quantize::kquants::round_row_q6_k;
use crate::quantize::round::Codes;

pub struct RoundedCheckpoint {
    inner: Box<dyn Checkpoint>,
    /// The types of the matrices that are rounded, by name.
    types: HashMap<String, DType>,
}

impl RoundedCheckpoint {
    /// Each type is Q8_0, Q6_K or one of four bits in groups, and its blocks divide the tensor's rows.
    pub fn new(inner: Box<dyn Checkpoint>, types: HashMap<String, DType>) -> Self {
        Self { inner, types }
    }
}

impl Overlay for RoundedCheckpoint {
    fn under(&self) -> &dyn Checkpoint {
        &*self.inner
    }

    fn converted_info(&self, name: &str) -> Option<TensorInfo> {
        let dtype = *self.types.get(name)?;
        self.inner.info(name).ok().map(|info| TensorInfo { dtype, ..info })
    }

    fn converted(&self, name: &str) -> Result<(&str, Box<dyn RowSource + '_>)> {
        let (name, &dtype) = self.types.get_key_value(name).expect("a matrix that is rounded");
        Ok((name, Box::new(Rounded { inner: self.inner.rows(name)?, dtype })))
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
    if dtype == DType::Q6_K {
        return round_row_q6_k(numbers, out);
    }
    let codes = codes_of(dtype);
    for (numbers, block) in numbers.chunks_exact(dtype.block_len()).zip(out.chunks_exact_mut(dtype.block_bytes())) {
        let step = codes.step(numbers);
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
