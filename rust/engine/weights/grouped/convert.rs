//! From a matrix's parts to blocks, row by row.

use half::f16;

use super::Matrix;
use super::parts::Parts;
use crate::quant::DType;
use crate::weights::rows::{PanelRows, RowSource, make_rows};

/// A quantized matrix, converted row by row when it is read.
pub struct Converted<'a> {
    pub name: &'a str,
    pub matrix: &'a Matrix,
    pub parts: Parts<'a>,
}

impl RowSource for Converted<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn dtype(&self) -> DType {
        self.matrix.dtype
    }

    fn cols(&self) -> usize {
        self.matrix.cols
    }

    fn read<'a>(&'a self, rows: &[usize], buffer: &'a mut Vec<u8>) -> PanelRows<'a> {
        make_rows(rows.len(), self.row_bytes(), buffer, |out| self.convert(rows, out))
    }
}

impl Converted<'_> {
    /// The blocks of any rows: (rows.len(), row_bytes).
    pub fn convert(&self, rows: &[usize], out: &mut [u8]) {
        let per_row = self.matrix.cols / self.parts.scheme.per_word();
        let mut words = vec![0; rows.len() * per_row];
        self.parts.read_words(rows, &mut words);
        let mut ordered = vec![0; per_row];
        let outs = out.chunks_exact_mut(self.row_bytes());
        for ((&row, words), out) in rows.iter().zip(words.chunks_exact(per_row)).zip(outs) {
            match &self.matrix.order {
                None => self.write_row(row, words, out),
                Some(order) => {
                    reorder(words, order, self.parts.scheme.bits, &mut ordered);
                    self.write_row(row, &ordered, out);
                }
            }
        }
    }

    fn write_row(&self, row: usize, words: &[u32], out: &mut [u8]) {
        let Matrix { dtype, group, .. } = *self.matrix;
        let has_zero = matches!(dtype, DType::U4G32 | DType::U4G64 | DType::U4G128 | DType::U8G32);
        let words = words.chunks_exact(dtype.block_len() / self.parts.scheme.per_word());
        for (b, (block, words)) in out.chunks_exact_mut(dtype.block_bytes()).zip(words).enumerate() {
            let group = b * dtype.block_len() / group;
            let scale = self.parts.scale(row, group);
            let codes = match dtype {
                DType::I8_ROW => {
                    let (factor, codes) = block.split_at_mut(4);
                    factor.copy_from_slice(&scale.to_le_bytes());
                    codes
                }
                _ => {
                    let (factors, codes) = block.split_at_mut(2 + usize::from(has_zero));
                    factors[..2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
                    if has_zero {
                        factors[2] = self.parts.zero(row, group);
                    }
                    codes
                }
            };
            // Codes of a file are unsigned, those of these types are signed.
            let flip = if matches!(dtype, DType::Q8_0 | DType::I8_ROW) { 0x8080_8080 } else { 0 };
            let codes = codes.as_chunks_mut::<4>().0.iter_mut();
            codes.zip(words).for_each(|(codes, word)| *codes = (word ^ flip).to_le_bytes());
        }
    }
}

/// A row's codes with column `order[i]` in place `i`.
fn reorder(words: &[u32], order: &[u32], bits: usize, out: &mut [u32]) {
    let per_word = 32 / bits;
    let code = |col: usize| words[col / per_word] >> (bits * (col % per_word)) & ((1 << bits) - 1);
    for (out, cols) in out.iter_mut().zip(order.chunks_exact(per_word)) {
        *out = cols.iter().enumerate().fold(0, |word, (i, &col)| word | code(col as usize) << (bits * i));
    }
}
