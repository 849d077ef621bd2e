//! A weight matrix as kernels read it: bf16, or codes of 4 or 8 bits in the order in which a warp's lanes take them.
//!
//! Codes stand in panels of 16 rows (the last one padded with rows of scale 0) and blocks of 64 columns (of 32 for 8 bits).
//! Lane 4 g + t has the columns 8 t .. 8 t + 8 of each 32, of the rows g and g + 8:
//!
//! ```text
//! 4 bits  codes  u32 (panels, cols / 64, 32 lanes, 2 steps of 32 columns, 2 rows)   column i in nibble [0 4 1 5 2 6 3 7][i]
//! 8 bits  codes  u32 (panels, cols / 32, 32 lanes, 2 rows, 2)                       column i in byte [0 2 1 3][i % 4] of word i / 4
//!         scales f16 (panels, groups, 8, 2 rows)
//!         zeros  u8  (panels, groups, 8, 2 rows)
//! ```

use std::sync::Arc;

use half::{bf16, f16};

use super::driver::{Context, DeviceBuffer};
use super::launch::GemmWeight;
use crate::error::Result;
use crate::quant::{BlockParts, DType, PANEL_ROWS};

/// How a matrix is kept on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    Bf16,
    /// Four bits; the zero point is 8, or each group's own.
    Int4 {
        group: usize,
        zeros: bool,
    },
    /// Eight bits, two's complement.
    Int8 {
        group: usize,
    },
}

impl Storage {
    /// What keeps every number of a file's type but for the rounding to bf16; types without codes of their own become bf16.
    pub fn of(dtype: DType) -> Self {
        use DType::*;
        let group = dtype.block_len();
        match dtype {
            Q4_0 | I4G32 | I4G64 | I4G128 => Self::Int4 { group, zeros: false },
            U4G32 | U4G64 | U4G128 => Self::Int4 { group, zeros: true },
            Q8_0 => Self::Int8 { group },
            _ => Self::Bf16,
        }
    }

    /// Columns that a scale serves, and that lie together in a block.
    pub fn group(self) -> usize {
        match self {
            Self::Bf16 => 1,
            Self::Int4 { group, .. } | Self::Int8 { group } => group,
        }
    }

    pub fn num_bytes(self, rows: usize, cols: usize) -> usize {
        let (rows_up, factors) = (rows.next_multiple_of(PANEL_ROWS), cols / self.group());
        match self {
            Self::Bf16 => 2 * rows * cols,
            Self::Int4 { zeros, .. } => rows_up * (cols.next_multiple_of(64) / 2 + (2 + usize::from(zeros)) * factors),
            Self::Int8 { .. } => rows_up * (cols.next_multiple_of(32) + 2 * factors),
        }
    }
}

/// On the device.
#[derive(Debug)]
pub enum CudaMatrix {
    /// (rows, cols)
    Bf16(DeviceBuffer<bf16>),
    Int4 {
        codes: DeviceBuffer<u32>,
        scales: DeviceBuffer<f16>,
        zeros: Option<DeviceBuffer<u8>>,
        group: usize,
    },
    Int8 {
        codes: DeviceBuffer<u32>,
        scales: DeviceBuffer<f16>,
        group: usize,
    },
}

impl CudaMatrix {
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::Bf16(weight) => weight.num_bytes(),
            Self::Int4 { codes, scales, zeros, .. } => {
                codes.num_bytes() + scales.num_bytes() + zeros.as_ref().map_or(0, DeviceBuffer::num_bytes)
            }
            Self::Int8 { codes, scales, .. } => codes.num_bytes() + scales.num_bytes(),
        }
    }

    pub fn as_weight(&self) -> GemmWeight<'_> {
        match self {
            Self::Bf16(weight) => GemmWeight::Bf16(weight.all()),
            Self::Int4 { codes, scales, zeros, group } => GemmWeight::Int4 {
                codes: codes.all(),
                scales: scales.all(),
                zeros: zeros.as_ref().map(DeviceBuffer::all),
                group: *group,
            },
            Self::Int8 { codes, scales, group } => {
                GemmWeight::Int8 { codes: codes.all(), scales: scales.all(), group: *group }
            }
        }
    }
}

/// A quantized matrix on its way to the device.
pub struct HostCodes {
    storage: Storage,
    num_panels: usize,
    codes: Vec<u32>,
    scales: Vec<f16>,
    zeros: Vec<u8>,
}

/// One panel of it.
pub struct CodesPanel<'a> {
    storage: Storage,
    codes: &'a mut [u32],
    scales: &'a mut [f16],
    /// Empty where the storage has none.
    zeros: &'a mut [u8],
}

impl HostCodes {
    /// Zeros: all scales are 0.
    pub fn new(storage: Storage, rows: usize, cols: usize) -> Self {
        let num_panels = rows.div_ceil(PANEL_ROWS);
        let rows = num_panels * PANEL_ROWS;
        let factors = rows * cols / storage.group();
        let (words, zeros) = match storage {
            Storage::Bf16 => unreachable!("bf16 has no codes"),
            Storage::Int4 { zeros, .. } => (rows * cols.next_multiple_of(64) / 8, zeros),
            Storage::Int8 { .. } => (rows * cols.next_multiple_of(32) / 4, false),
        };
        Self {
            storage,
            num_panels,
            codes: vec![0; words],
            scales: vec![f16::ZERO; factors],
            zeros: vec![0; if zeros { factors } else { 0 }],
        }
    }

    pub fn panels(&mut self) -> Vec<CodesPanel<'_>> {
        let Self { storage, num_panels, codes, scales, zeros } = self;
        let (words, factors) = (codes.len() / *num_panels, scales.len() / *num_panels);
        let mut zeros = zeros.chunks_exact_mut(factors);
        codes
            .chunks_exact_mut(words)
            .zip(scales.chunks_exact_mut(factors))
            .map(|(codes, scales)| CodesPanel {
                storage: *storage,
                codes,
                scales,
                zeros: zeros.next().unwrap_or_default(),
            })
            .collect()
    }

    pub fn upload(self, context: &Arc<Context>) -> Result<CudaMatrix> {
        let codes = DeviceBuffer::from_slice(context, &self.codes)?;
        let scales = DeviceBuffer::from_slice(context, &self.scales)?;
        let zeros = (!self.zeros.is_empty()).then(|| DeviceBuffer::from_slice(context, &self.zeros)).transpose()?;
        Ok(match self.storage {
            Storage::Bf16 => unreachable!("bf16 has no codes"),
            Storage::Int4 { group, .. } => CudaMatrix::Int4 { codes, scales, zeros, group },
            Storage::Int8 { group } => CudaMatrix::Int8 { codes, scales, group },
        })
    }
}

impl CodesPanel<'_> {
    /// Writes a file's block to columns `col` on of row `row` of the panel.
    pub fn write(&mut self, row: usize, col: usize, dtype: DType, block: &[u8], parts: &mut BlockParts) {
        parts.read(dtype, block);
        let factor = (col / self.storage.group()) * PANEL_ROWS + row % 8 * 2 + row / 8;
        self.scales[factor] = f16::from_le_bytes(parts.scale);
        if let Some(zero) = self.zeros.get_mut(factor) {
            *zero = u8::try_from(-i16::from_le_bytes(parts.min)).expect("zero points of four bits are 0 to 16");
        }
        for (i, &code) in parts.codes[..dtype.block_len()].iter().enumerate() {
            let (word, shift) = place(self.storage, row, col + i);
            // Codes of eight bits come with 128 added.
            let code = if matches!(self.storage, Storage::Int8 { .. }) { code ^ 0x80 } else { code };
            self.codes[word] |= u32::from(code) << shift;
        }
    }
}

/// Where the code of row `row`, column `col` lies in its panel: the word, and its lowest bit there.
fn place(storage: Storage, row: usize, col: usize) -> (usize, usize) {
    let (lane, half, i) = (row % 8 * 4 + col % 32 / 8, row / 8, col % 8);
    match storage {
        Storage::Int8 { .. } => ((col / 32 * 32 + lane) * 4 + half * 2 + i / 4, 8 * [0, 2, 1, 3][i % 4]),
        _ => ((col / 64 * 32 + lane) * 4 + col % 64 / 32 * 2 + half, 4 * (i / 2 + i % 2 * 4)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize;

    /// What the kernels make of a code: scale * (code - zero).
    fn read(codes: &HostCodes, cols: usize, row: usize, col: usize) -> f32 {
        let (panel, row) = (row / PANEL_ROWS, row % PANEL_ROWS);
        let (words, factors) = (codes.codes.len() / codes.num_panels, cols / codes.storage.group() * PANEL_ROWS);
        let (word, shift) = place(codes.storage, row, col);
        let word = codes.codes[panel * words + word] >> shift;
        let factor = panel * factors + col / codes.storage.group() * PANEL_ROWS + row % 8 * 2 + row / 8;
        let code = match codes.storage {
            Storage::Int8 { .. } => i32::from(word as u8 as i8),
            _ => (word & 15) as i32 - codes.zeros.get(factor).map_or(8, |&zero| i32::from(zero)),
        };
        code as f32 * codes.scales[factor].to_f32()
    }

    #[test]
    fn every_code_has_a_place_of_its_own_and_stands_for_the_files_number() {
        use DType::*;
        let (rows, cols) = (20, 256);
        for dtype in [Q4_0, I4G32, I4G64, I4G128, U4G32, U4G64, U4G128, Q8_0] {
            let storage = Storage::of(dtype);
            let mut codes = HostCodes::new(storage, rows, cols);
            let row_bytes = dtype.row_bytes(cols).unwrap();
            let file: Vec<u8> = (0..rows * row_bytes).map(|i| ((i * 2654435761) >> 7) as u8).collect();
            // Small scales, and zero points of four bits.
            let file: Vec<u8> = file
                .chunks_exact(dtype.block_bytes())
                .flat_map(|block| {
                    let mut block = block.to_vec();
                    block[1] &= 0xbf;
                    block[2] =
                        if matches!(storage, Storage::Int4 { zeros: true, .. }) { block[2] % 17 } else { block[2] };
                    block
                })
                .collect();
            let mut parts = BlockParts::new();
            for (panel, out) in codes.panels().iter_mut().enumerate() {
                for row in 0..PANEL_ROWS.min(rows - panel * PANEL_ROWS) {
                    let blocks =
                        file[(panel * PANEL_ROWS + row) * row_bytes..][..row_bytes].chunks(dtype.block_bytes());
                    for (b, block) in blocks.enumerate() {
                        out.write(row, b * dtype.block_len(), dtype, block, &mut parts);
                    }
                }
            }
            let mut expected = vec![0.0; rows * cols];
            dequantize(dtype, &file, &mut expected);
            for (i, &expected) in expected.iter().enumerate() {
                assert_eq!(read(&codes, cols, i / cols, i % cols), expected, "{dtype} {i}");
            }
            let bytes = 4 * codes.codes.len() + 2 * codes.scales.len() + codes.zeros.len();
            assert_eq!(bytes, storage.num_bytes(rows, cols));
        }
    }
}
