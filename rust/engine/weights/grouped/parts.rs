//! The tensors that make up one quantized matrix, and the numbers in them.

use std::path::Path;

use half::{bf16, f16};

use super::Matrix;
use super::scheme::{Packing, Scheme};
use crate::error::{Error, Result};
use crate::quant::DType;
use crate::weights::safetensors::RawTensor;
use crate::weights::{Checkpoint, SafetensorsDir};

/// Where AWQ's word has the code of row `n` of eight: in nibble `AWQ_NIBBLE[n]`.
pub const AWQ_NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

pub struct Parts<'a> {
    pub scheme: Scheme,
    pub rows: usize,
    pub cols: usize,
    /// Columns that share a scale.
    pub group: usize,
    /// Words of 32 bits; bytes where `Packing::Plain`.
    pub codes: &'a [u8],
    scales: RawTensor<'a>,
    zeros: Option<&'a [u8]>,
    order: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// The parts of matrix `stem`, their shapes checked against each other.
    pub fn find(folder: &'a SafetensorsDir, scheme: Scheme, stem: &str) -> Result<Self> {
        let find = |suffix: &str| folder.raw(&format!("{stem}.{suffix}"));
        let need = |suffix: &str| {
            find(suffix).ok_or_else(|| Error::corrupt(folder.path(), format!("tensor '{stem}.{suffix}' is missing")))
        };
        let (codes, scales, zeros, order) = match scheme.packing {
            Packing::Gptq { .. } => (need("qweight")?, need("scales")?, Some(need("qzeros")?), find("g_idx")),
            Packing::Awq => (need("qweight")?, need("scales")?, Some(need("qzeros")?), None),
            Packing::Packed => {
                (need("weight_packed")?, need("weight_scale")?, find("weight_zero_point"), find("weight_g_idx"))
            }
            Packing::Plain => (need("weight")?, need("weight_scale")?, find("weight_zero_point"), None),
        };
        let (rows, cols) = scheme.shape(codes.shape).unwrap_or_default();
        let group = scheme.group.unwrap_or(cols);
        let parts = Self {
            scheme,
            rows,
            cols,
            group,
            codes: codes.bytes,
            scales,
            zeros: zeros.filter(|zeros| !scheme.is_neutral(zeros)).map(|zeros| zeros.bytes),
            order: order.map(|order| order.bytes).filter(|order| !order.is_empty()),
        };
        match parts.misfit(codes, zeros, order) {
            None => Ok(parts),
            Some(what) => Err(Error::corrupt(folder.path(), format!("'{stem}' {what}"))),
        }
    }

    /// What of the parts does not fit the others.
    fn misfit(
        &self,
        codes: RawTensor<'_>,
        zeros: Option<RawTensor<'_>>,
        order: Option<RawTensor<'_>>,
    ) -> Option<String> {
        let Self { scheme, rows, cols, group, .. } = *self;
        let word = if scheme.packing == Packing::Plain { "I8" } else { "I32" };
        if codes.dtype != word || rows == 0 || cols == 0 {
            return Some(format!("has codes of type {} and shape {:?}", codes.dtype, codes.shape));
        }
        if !cols.is_multiple_of(group) {
            return Some(format!("has {cols} columns, which are no whole groups of {group}"));
        }
        let groups = cols / group;
        let per_word = if scheme.packing == Packing::Plain { 1 } else { scheme.per_word() };
        let (scales, zeros_shape) = match scheme.packing {
            Packing::Gptq { .. } | Packing::Awq => ([groups, rows], [groups, rows / per_word]),
            Packing::Packed | Packing::Plain => ([rows, groups], [rows / per_word, groups]),
        };
        if self.scales.shape != scales || !matches!(self.scales.dtype, "F16" | "BF16" | "F32") {
            let RawTensor { dtype, shape, .. } = self.scales;
            return Some(format!(
                "has scales of type {dtype} and shape {shape:?} where floats of {scales:?} are needed"
            ));
        }
        let is_misfit =
            |zeros: &RawTensor<'_>| zeros.dtype != word || zeros.shape != zeros_shape || !rows.is_multiple_of(per_word);
        if let Some(zeros) = zeros.filter(|zeros| self.zeros.is_some() && is_misfit(zeros)) {
            let RawTensor { dtype, shape, .. } = zeros;
            return Some(format!("has zero points of type {dtype} and shape {shape:?}, not {word} of {zeros_shape:?}"));
        }
        let order = order.filter(|_| self.order.is_some());
        let order = order.filter(|order| order.dtype != "I32" || order.shape != [cols])?;
        Some(format!("has an order of type {} and shape {:?} for {cols} columns", order.dtype, order.shape))
    }

    /// What the matrix reads as. Refuses what no block type holds.
    pub fn matrix(&self, path: &Path, stem: &str) -> Result<Matrix> {
        let refuse = |what: String| Err(Error::unsupported(path, format!("'{stem}' has {what}, which cannot run yet")));
        let Some(order) = self.column_order() else {
            let what = format!("'{stem}' has an order of columns whose groups are not all of {} columns", self.group);
            return Err(Error::corrupt(path, what));
        };
        let symmetric = self.is_symmetric();
        let block = [128, 64, 32].into_iter().find(|block| self.group.is_multiple_of(*block));
        let dtype = match (self.scheme.bits, block, symmetric) {
            (4, Some(128), true) => DType::I4G128,
            (4, Some(64), true) => DType::I4G64,
            (4, Some(_), true) => DType::I4G32,
            (4, Some(128), false) => DType::U4G128,
            (4, Some(64), false) => DType::U4G64,
            (4, Some(_), false) => DType::U4G32,
            (_, Some(_), true) if self.is_by_row() => DType::I8_ROW,
            (_, Some(_), true) => DType::Q8_0,
            (_, Some(_), false) => DType::U8G32,
            (_, None, _) => return refuse(format!("groups of {} columns", self.group)),
        };
        let order = (!order.is_sorted()).then_some(order);
        Ok(Matrix { stem: stem.into(), dtype, rows: self.rows, cols: self.cols, group: self.group, order })
    }

    /// Whether rows have one scale, and inputs are meant to be int8.
    fn is_by_row(&self) -> bool {
        self.scheme.int8_tokens && self.group == self.cols
    }

    /// Whether every scale is a number that float16 has.
    pub fn has_finite_scales(&self) -> bool {
        (0..self.rows * (self.cols / self.group)).all(|at| f16::from_f32(self.scale_at(at)).is_finite())
    }

    /// The codes of any rows, unsigned, in words of 32 bits and the file's order of columns: (rows.len(), cols / per_word).
    pub fn read_words(&self, rows: &[usize], out: &mut [u32]) {
        let per_row = self.cols / self.scheme.per_word();
        match self.scheme.packing {
            Packing::Packed | Packing::Plain => {
                for (out, &row) in out.chunks_exact_mut(per_row).zip(rows) {
                    let words = self.codes[4 * per_row * row..][..4 * per_row].as_chunks::<4>().0;
                    out.iter_mut().zip(words).for_each(|(out, &word)| *out = u32::from_le_bytes(word));
                }
            }
            // Words of neighbouring rows lie side by side: a panel's share a cache line.
            Packing::Gptq { .. } => {
                for (at, words) in self.codes.chunks_exact(4 * self.rows).enumerate() {
                    for (i, &row) in rows.iter().enumerate() {
                        out[i * per_row + at] = u32::from_le_bytes(four(&words[4 * row..]));
                    }
                }
            }
            Packing::Awq => self.read_awq(rows, out),
        }
        if self.scheme.packing == Packing::Plain {
            // These alone count from -128.
            out.iter_mut().for_each(|word| *word ^= 0x8080_8080);
        }
    }

    /// A word has eight rows of a column: eight of them have a row's eight columns.
    fn read_awq(&self, rows: &[usize], out: &mut [u32]) {
        let per_row = self.cols / 8;
        for (at, columns) in self.codes.chunks_exact(4 * self.rows).enumerate() {
            for (i, &row) in rows.iter().enumerate() {
                let words =
                    columns.chunks_exact(self.rows / 2).map(|words| u32::from_le_bytes(four(&words[row / 8 * 4..])));
                let nibbles = words.map(|word| word >> (4 * AWQ_NIBBLE[row % 8]) & 15);
                out[i * per_row + at] = nibbles.enumerate().fold(0, |word, (n, nibble)| word | nibble << (4 * n));
            }
        }
    }

    /// The scale of a row's group.
    pub fn scale(&self, row: usize, group: usize) -> f32 {
        let at = match self.scheme.packing {
            Packing::Gptq { .. } | Packing::Awq => group * self.rows + row,
            Packing::Packed | Packing::Plain => row * (self.cols / self.group) + group,
        };
        self.scale_at(at)
    }

    fn scale_at(&self, at: usize) -> f32 {
        let bytes = self.scales.bytes;
        match self.scales.dtype {
            "F32" => f32::from_le_bytes(four(&bytes[4 * at..])),
            "BF16" => bf16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32(),
            _ => f16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]).to_f32(),
        }
    }

    /// The code that stands for zero, in a row's group.
    pub fn zero(&self, row: usize, group: usize) -> u8 {
        let (bits, per_word) = (self.scheme.bits, self.scheme.per_word());
        let Some(zeros) = self.zeros else { return 1 << (bits - 1) };
        let word = |at: usize| u32::from_le_bytes(four(&zeros[4 * at..]));
        let mask = (1u32 << bits) - 1;
        let zero = match self.scheme.packing {
            Packing::Gptq { version } => {
                let stored = word(group * (self.rows / per_word) + row / per_word) >> (bits * (row % per_word));
                stored.wrapping_add(u32::from(version == 1))
            }
            Packing::Awq => word(group * (self.rows / 8) + row / 8) >> (4 * AWQ_NIBBLE[row % 8]),
            Packing::Packed => word(row / per_word * (self.cols / self.group) + group) >> (bits * (row % per_word)),
            Packing::Plain => u32::from(zeros[row * (self.cols / self.group) + group] ^ 0x80),
        };
        (zero & mask) as u8
    }

    fn is_symmetric(&self) -> bool {
        let middle = 1 << (self.scheme.bits - 1);
        self.zeros.is_none()
            || (0..self.rows).all(|row| (0..self.cols / self.group).all(|group| self.zero(row, group) == middle))
    }

    /// The columns, those of a group side by side. None: groups are not of equal size.
    fn column_order(&self) -> Option<Vec<u32>> {
        let mut columns: Vec<u32> = (0..self.cols as u32).collect();
        if let Some(order) = self.order {
            let groups: Vec<u32> = order.as_chunks::<4>().0.iter().map(|&bytes| u32::from_le_bytes(bytes)).collect();
            columns.sort_by_key(|&col| groups[col as usize]);
            let is_in_group = |(at, &col): (usize, &u32)| groups[col as usize] as usize == at / self.group;
            columns.iter().enumerate().all(is_in_group).then_some(())?;
        }
        Some(columns)
    }
}

fn four(bytes: &[u8]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}
