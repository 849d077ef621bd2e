//! From a matrix's parts to blocks, row by row.

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
        let cols = self.matrix.cols;
        let mut codes = vec![0; rows.len() * cols];
        self.parts.read_codes(rows, &mut codes);
        let mut ordered = vec![0; if self.matrix.order.is_some() { cols } else { 0 }];
        let outs = out.chunks_exact_mut(self.row_bytes());
        for ((&row, codes), out) in rows.iter().zip(codes.chunks_exact(cols)).zip(outs) {
            let codes = match &self.matrix.order {
                None => codes,
                Some(order) => {
                    ordered.iter_mut().zip(order).for_each(|(code, &col)| *code = codes[col as usize]);
                    &ordered
                }
            };
            self.write_row(row, codes, out);
        }
    }

    fn write_row(&self, row: usize, codes: &[u8], out: &mut [u8]) {
        let Matrix { dtype, group, .. } = *self.matrix;
        let has_zero = matches!(dtype, DType::U4G32 | DType::U4G64 | DType::U4G128);
        let blocks = out.chunks_exact_mut(dtype.block_bytes());
        for (b, (block, codes)) in blocks.zip(codes.chunks_exact(dtype.block_len())).enumerate() {
            let group = b * dtype.block_len() / group;
            block[..2].copy_from_slice(&self.parts.scale(row, group).to_le_bytes());
            let mut at = 2;
            if has_zero {
                block[2] = self.parts.zero(row, group);
                at = 3;
            }
            match dtype {
                DType::Q8_0 => block[at..].copy_from_slice(codes),
                _ => pack_nibbles(codes, &mut block[at..]),
            }
        }
    }
}

/// Two codes a byte, the first one in the low nibble.
fn pack_nibbles(codes: &[u8], out: &mut [u8]) {
    for (out, pair) in out.iter_mut().zip(codes.as_chunks::<2>().0) {
        *out = pair[0] | pair[1] << 4;
    }
}
