//! From a matrix's parts to blocks, row by row.

use std::path::Path;

use super::Matrix;
use super::parts::{AWQ_NIBBLE, Parts};
use super::scheme::Packing;
use crate::error::{Error, Result};
use crate::quant::DType;

/// The matrix's blocks, (rows, cols / block_len) of them.
pub fn blocks(path: &Path, parts: &Parts<'_>, matrix: &Matrix) -> Result<Vec<u8>> {
    let mut out = Blocks::new(parts, matrix);
    if !out.write_factors(parts, matrix) {
        return Err(Error::corrupt(path, format!("'{}' has a scale that is no number", matrix.stem)));
    }
    match parts.scheme.packing {
        Packing::Awq => out.write_awq(parts),
        Packing::Plain => out.write_plain(parts),
        _ => out.write_words(parts, parts.scheme.per_word()),
    }
    Ok(out.bytes)
}

struct Blocks {
    bytes: Vec<u8>,
    block_len: usize,
    block_bytes: usize,
    blocks_per_row: usize,
    /// Bytes before a block's codes.
    header: usize,
    code_bits: usize,
}

impl Blocks {
    fn new(parts: &Parts<'_>, matrix: &Matrix) -> Self {
        let (block_len, block_bytes) = (matrix.dtype.block_len(), matrix.dtype.block_bytes());
        let blocks_per_row = matrix.cols / block_len;
        Self {
            bytes: vec![0; matrix.rows * blocks_per_row * block_bytes],
            block_len,
            block_bytes,
            blocks_per_row,
            header: block_bytes - block_len * parts.scheme.bits / 8,
            code_bits: parts.scheme.bits,
        }
    }

    /// Scales and zero points. False: a scale is not finite.
    fn write_factors(&mut self, parts: &Parts<'_>, matrix: &Matrix) -> bool {
        let has_zero = matches!(matrix.dtype, DType::U4G32 | DType::U4G64 | DType::U4G128);
        let mut blocks = self.bytes.chunks_exact_mut(self.block_bytes);
        for row in 0..matrix.rows {
            for (b, block) in blocks.by_ref().take(self.blocks_per_row).enumerate() {
                let group = b * self.block_len / matrix.group;
                let scale = parts.scale(row, group);
                if !scale.is_finite() {
                    return false;
                }
                block[..2].copy_from_slice(&scale.to_le_bytes());
                if has_zero {
                    block[2] = parts.zero(row, group);
                }
            }
        }
        true
    }

    /// The bytes of a row's codes from column `col` on.
    fn codes_at(&mut self, row: usize, col: usize) -> &mut [u8] {
        let block = (row * self.blocks_per_row + col / self.block_len) * self.block_bytes;
        &mut self.bytes[block + self.header + col % self.block_len * self.code_bits / 8..]
    }

    /// Words of `per_word` columns: in their order, they are a block's bytes.
    fn write_words(&mut self, parts: &Parts<'_>, per_word: usize) {
        // Codes of eight bits count from -128 in blocks.
        let flip = if per_word == 4 { 0x8080_8080 } else { 0 };
        let across = matches!(parts.scheme.packing, Packing::Gptq { .. });
        let words = parts.codes.as_chunks::<4>().0;
        for (i, &word) in words.iter().enumerate() {
            let (row, at) = match across {
                true => (i % parts.rows, i / parts.rows),
                false => (i / (parts.cols / per_word), i % (parts.cols / per_word)),
            };
            let word = u32::from_le_bytes(word) ^ flip;
            self.codes_at(row, at * per_word)[..4].copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Words of eight rows: eight of them, of eight columns, are turned to words of columns.
    fn write_awq(&mut self, parts: &Parts<'_>) {
        let words = parts.codes.as_chunks::<4>().0;
        let per_col = parts.rows / 8;
        for col in (0..parts.cols).step_by(8) {
            for at in 0..per_col {
                let square: [u32; 8] = std::array::from_fn(|i| u32::from_le_bytes(words[(col + i) * per_col + at]));
                for (n, nibble) in AWQ_NIBBLE.into_iter().enumerate() {
                    let word = (0..8).fold(0, |word, i| word | (square[i] >> (4 * nibble) & 15) << (4 * i));
                    self.codes_at(at * 8 + n, col)[..4].copy_from_slice(&word.to_le_bytes());
                }
            }
        }
    }

    fn write_plain(&mut self, parts: &Parts<'_>) {
        let len = self.block_len;
        for (row, codes) in parts.codes.chunks_exact(parts.cols).enumerate() {
            for (b, codes) in codes.chunks_exact(len).enumerate() {
                self.codes_at(row, b * len)[..len].copy_from_slice(codes);
            }
        }
    }
}
