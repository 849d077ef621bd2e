//! A weight matrix as kernels read it: bf16, f16, or codes of 4 or 8 bits in the order in which a warp's lanes take them.
//!
//! Codes stand in panels of 16 rows (the last one padded with rows of scale 0) and blocks of 64 columns (of 32 for 8 bits).
//! Lane 4 g + t has the columns 8 t .. 8 t + 8 of each 32, of the rows g and g + 8:
//!
//! ```text
//! 4 bits  codes  u32 (panels, cols / 64, 32 lanes, 2 steps of 32 columns, 2 rows)   column i in nibble [0 4 1 5 2 6 3 7][i]
//! 8 bits  codes  u32 (panels, cols / 32, 32 lanes, 2 rows, 2)                       column i in byte [0 2 1 3][i % 4] of word i / 4
//!         scales f16 (panels, groups, 8, 2 rows)
//!         zeros  u8  (panels, groups, 8, 2 rows)
//! with minima, instead of both
//!         factors f16 (panels, groups, 8, 2: scales and minima, 2 rows)
//! MXFP4, instead of both: numbers of E2M1 where codes of 4 bits would be
//!         exponents u8 (panels, groups, 8, 2 rows)
//! ```

use std::sync::Arc;

use half::{bf16, f16};

use super::driver::{Context, DeviceBuffer};
use super::launch::GemmWeight;
use crate::error::Result;
use crate::quant::{BlockParts, BlockSpec, DType, Format, Layout, PANEL_ROWS, format};

/// How a matrix is kept on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    Bf16,
    F16,
    /// Four bits; the zero point is 8, or each group's own.
    Int4 {
        group: usize,
        zeros: bool,
    },
    /// Eight bits, two's complement.
    Int8 {
        group: usize,
    },
    /// The same with a minimum beside each scale.
    Int4Min {
        group: usize,
    },
    Int8Min {
        group: usize,
    },
    /// Four bits of E2M1, with a power of two for each 32.
    Mxfp4,
}

impl Storage {
    /// What keeps every number of a file's type but for the rounding to bf16, and to f16 of scales that are products and of
    /// minima that are zero points; types without codes become bf16.
    pub fn of(dtype: DType) -> Self {
        use DType::*;
        let group = dtype.block_len();
        match dtype {
            Q4_0 | I4G32 | I4G64 | I4G128 => Self::Int4 { group, zeros: false },
            U4G32 | U4G64 | U4G128 => Self::Int4 { group, zeros: true },
            Q8_0 | Q5_0 | IQ4_NL | IQ4_XS | I8_ROW => Self::Int8 { group: 32 },
            Q4_1 | Q4_K => Self::Int4Min { group: 32 },
            Q2_K | Q3_K => Self::Int4Min { group: 16 },
            Q5_1 | Q5_K | U8G32 => Self::Int8Min { group: 32 },
            Q6_K => Self::Int8Min { group: 16 },
            MXFP4 => Self::Mxfp4,
            F16 => Self::F16,
            F32 | BF16 | F8_E4M3 => Self::Bf16,
        }
    }

    /// What keeps matrices of two kinds below each other. The scales of MXFP4 and numbers of bf16 are beyond f16.
    pub fn common(self, other: Self) -> Self {
        match (self, other) {
            _ if self == other => self,
            (Self::Bf16 | Self::F16 | Self::Mxfp4, _) | (_, Self::Bf16 | Self::F16 | Self::Mxfp4) => Self::Bf16,
            _ => Self::Int8Min { group: self.group().min(other.group()) },
        }
    }

    /// Columns that a scale serves, and that lie together in a block.
    pub fn group(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 1,
            Self::Int4 { group, .. } | Self::Int8 { group } | Self::Int4Min { group } | Self::Int8Min { group } => {
                group
            }
            Self::Mxfp4 => 32,
        }
    }

    pub fn num_bytes(self, rows: usize, cols: usize) -> usize {
        let (rows_up, factors) = (rows.next_multiple_of(PANEL_ROWS), cols / self.group());
        match self {
            Self::Bf16 | Self::F16 => 2 * rows * cols,
            Self::Int4 { zeros, .. } => rows_up * (cols.next_multiple_of(64) / 2 + (2 + usize::from(zeros)) * factors),
            Self::Int8 { .. } => rows_up * (cols.next_multiple_of(32) + 2 * factors),
            Self::Int4Min { .. } => rows_up * (cols.next_multiple_of(64) / 2 + 4 * factors),
            Self::Int8Min { .. } => rows_up * (cols.next_multiple_of(32) + 4 * factors),
            Self::Mxfp4 => rows_up * (cols.next_multiple_of(64) / 2 + factors),
        }
    }
}

/// On the device.
#[derive(Debug)]
pub enum CudaMatrix {
    /// (rows, cols)
    Bf16(DeviceBuffer<bf16>),
    /// (rows, cols)
    F16(DeviceBuffer<f16>),
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
    Min {
        bits: usize,
        codes: DeviceBuffer<u32>,
        factors: DeviceBuffer<f16>,
        group: usize,
    },
    Mxfp4 {
        codes: DeviceBuffer<u32>,
        exponents: DeviceBuffer<u8>,
    },
}

impl CudaMatrix {
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::Bf16(weight) => weight.num_bytes(),
            Self::F16(weight) => weight.num_bytes(),
            Self::Int4 { codes, scales, zeros, .. } => {
                codes.num_bytes() + scales.num_bytes() + zeros.as_ref().map_or(0, DeviceBuffer::num_bytes)
            }
            Self::Int8 { codes, scales, .. } => codes.num_bytes() + scales.num_bytes(),
            Self::Min { codes, factors, .. } => codes.num_bytes() + factors.num_bytes(),
            Self::Mxfp4 { codes, exponents } => codes.num_bytes() + exponents.num_bytes(),
        }
    }

    pub fn as_weight(&self) -> GemmWeight<'_> {
        match self {
            Self::Bf16(weight) => GemmWeight::Bf16(weight.all()),
            Self::F16(weight) => GemmWeight::F16(weight.all()),
            Self::Int4 { codes, scales, zeros, group } => GemmWeight::Int4 {
                codes: codes.all(),
                scales: scales.all(),
                zeros: zeros.as_ref().map(DeviceBuffer::all),
                group: *group,
            },
            Self::Int8 { codes, scales, group } => {
                GemmWeight::Int8 { codes: codes.all(), scales: scales.all(), group: *group }
            }
            Self::Min { bits, codes, factors, group } => {
                GemmWeight::Min { bits: *bits, codes: codes.all(), factors: factors.all(), group: *group }
            }
            Self::Mxfp4 { codes, exponents } => GemmWeight::Mxfp4 { codes: codes.all(), exponents: exponents.all() },
        }
    }
}

/// A quantized matrix on its way to the device.
pub struct HostCodes {
    storage: Storage,
    num_panels: usize,
    codes: Vec<u32>,
    /// With minima: of two rows scales, then minima.
    scales: Vec<f16>,
    /// Of MXFP4 the exponents.
    zeros: Vec<u8>,
}

/// One panel of it.
pub struct CodesPanel<'a> {
    storage: Storage,
    codes: &'a mut [u32],
    /// These two are empty where the storage has none.
    scales: &'a mut [f16],
    zeros: &'a mut [u8],
}

impl HostCodes {
    /// Zeros: all scales are 0.
    pub fn new(storage: Storage, rows: usize, cols: usize) -> Self {
        let num_panels = rows.div_ceil(PANEL_ROWS);
        let rows = num_panels * PANEL_ROWS;
        let factors = rows * cols / storage.group();
        let (words, zeros) = match storage {
            Storage::Bf16 | Storage::F16 => unreachable!("{storage:?} has no codes"),
            Storage::Int4 { zeros, .. } => (rows * cols.next_multiple_of(64) / 8, zeros),
            Storage::Int4Min { .. } => (rows * cols.next_multiple_of(64) / 8, false),
            Storage::Mxfp4 => (rows * cols.next_multiple_of(64) / 8, true),
            Storage::Int8 { .. } | Storage::Int8Min { .. } => (rows * cols.next_multiple_of(32) / 4, false),
        };
        let num_scales = match storage {
            Storage::Int4Min { .. } | Storage::Int8Min { .. } => 2 * factors,
            Storage::Mxfp4 => 0,
            _ => factors,
        };
        Self {
            storage,
            num_panels,
            codes: vec![0; words],
            scales: vec![f16::ZERO; num_scales],
            zeros: vec![0; if zeros { factors } else { 0 }],
        }
    }

    pub fn panels(&mut self) -> Vec<CodesPanel<'_>> {
        let Self { storage, num_panels, codes, scales, zeros } = self;
        let [words, factors, bytes] = [codes.len(), scales.len(), zeros.len()].map(|len| len / *num_panels);
        let mut scales = scales.chunks_exact_mut(factors.max(1));
        let mut zeros = zeros.chunks_exact_mut(bytes.max(1));
        codes
            .chunks_exact_mut(words)
            .map(|codes| CodesPanel {
                storage: *storage,
                codes,
                scales: scales.next().unwrap_or_default(),
                zeros: zeros.next().unwrap_or_default(),
            })
            .collect()
    }

    pub fn upload(self, context: &Arc<Context>) -> Result<CudaMatrix> {
        let codes = DeviceBuffer::from_slice(context, &self.codes)?;
        let scales = DeviceBuffer::from_slice(context, &self.scales)?;
        let zeros = (!self.zeros.is_empty()).then(|| DeviceBuffer::from_slice(context, &self.zeros)).transpose()?;
        Ok(match self.storage {
            Storage::Bf16 | Storage::F16 => unreachable!("{:?} has no codes", self.storage),
            Storage::Int4 { group, .. } => CudaMatrix::Int4 { codes, scales, zeros, group },
            Storage::Int8 { group } => CudaMatrix::Int8 { codes, scales, group },
            Storage::Int4Min { group } => CudaMatrix::Min { bits: 4, codes, factors: scales, group },
            Storage::Int8Min { group } => CudaMatrix::Min { bits: 8, codes, factors: scales, group },
            Storage::Mxfp4 => CudaMatrix::Mxfp4 { codes, exponents: zeros.expect("MXFP4 has exponents") },
        })
    }
}

impl CodesPanel<'_> {
    /// Writes a file's block to columns `col` on of row `row` of the panel.
    pub fn write(&mut self, row: usize, col: usize, dtype: DType, block: &[u8], parts: &mut BlockParts) {
        parts.read(dtype, block);
        let spec = spec_of(dtype);
        let group = self.storage.group().min(dtype.block_len());
        for first in (0..dtype.block_len()).step_by(group) {
            let line = BlockLine::of(&spec, parts, first / spec.group);
            let place = (col + first) / self.storage.group() * PANEL_ROWS + row % 8 * 2 + row / 8;
            let lowest = match self.storage {
                // The kernels know it, or it stands beside the scale.
                Storage::Int4 { zeros, .. } => {
                    if zeros {
                        let zero = -i16::from_le_bytes(parts.min);
                        self.zeros[place] = u8::try_from(zero).expect("zero points of four bits are 0 to 16");
                    }
                    0
                }
                Storage::Int4Min { .. } => 0,
                // Codes of E2M1, as they are in the file.
                Storage::Mxfp4 => {
                    self.zeros[place] = block[0];
                    0
                }
                // Two's complement.
                Storage::Int8Min { .. } if spec.code_bits == 8 => 128,
                _ => spec.offset,
            };
            match self.storage {
                Storage::Int4Min { .. } | Storage::Int8Min { .. } => {
                    let place = place / 16 * 32 + place % 16 / 2 * 4 + place % 2;
                    let scale = f16::from_f32(line.scale);
                    self.scales[place] = scale;
                    self.scales[place + 2] =
                        f16::from_f32(line.minimum - scale.to_f32() * (spec.offset - lowest) as f32);
                }
                Storage::Mxfp4 => (),
                _ => self.scales[place] = f16::from_f32(line.scale),
            }
            for (i, &code) in parts.codes[first..][..group].iter().enumerate() {
                let values = spec.values.filter(|_| self.storage != Storage::Mxfp4);
                let code = values.map_or(code, |values| values[usize::from(code)]);
                let (word, shift) = place_of(self.storage, row, col + first + i);
                let code = (i32::from(code) - lowest) as u8;
                self.codes[word] |= u32::from(code) << shift;
            }
        }
    }
}

/// How `BlockParts` has a type's codes.
fn spec_of(dtype: DType) -> BlockSpec {
    match dtype {
        DType::I8_ROW => format::Q8::SPEC,
        _ => Layout::of(dtype).block().expect("types with codes have blocks"),
    }
}

/// What a group's codes stand for: scale * (code - offset) + minimum.
struct BlockLine {
    scale: f32,
    minimum: f32,
}

impl BlockLine {
    fn of(spec: &BlockSpec, parts: &BlockParts, group: usize) -> Self {
        let of_group = |factors: &[i8; 16]| if spec.sub_scales { f32::from(factors[group]) } else { 1.0 };
        let scale = f16::from_le_bytes(parts.scale).to_f32() * of_group(&parts.sub_scales);
        let minimum = match (spec.min, spec.zero) {
            (false, _) => 0.0,
            (true, true) => scale * f32::from(i16::from_le_bytes(parts.min)),
            (true, false) => f16::from_le_bytes(parts.min).to_f32() * of_group(&parts.sub_mins),
        };
        Self { scale, minimum }
    }
}

/// Where the code of row `row`, column `col` lies in its panel: the word, and its lowest bit there.
fn place_of(storage: Storage, row: usize, col: usize) -> (usize, usize) {
    let (lane, half, i) = (row % 8 * 4 + col % 32 / 8, row / 8, col % 8);
    match storage {
        Storage::Int8 { .. } | Storage::Int8Min { .. } => {
            ((col / 32 * 32 + lane) * 4 + half * 2 + i / 4, 8 * [0, 2, 1, 3][i % 4])
        }
        _ => ((col / 64 * 32 + lane) * 4 + col % 64 / 32 * 2 + half, 4 * (i / 2 + i % 2 * 4)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantize;

    /// What the kernels make of a code, but for the rounding to bf16.
    fn read(codes: &HostCodes, cols: usize, row: usize, col: usize) -> f32 {
        let (panel, row) = (row / PANEL_ROWS, row % PANEL_ROWS);
        let factors = cols / codes.storage.group() * PANEL_ROWS;
        let (word, shift) = place_of(codes.storage, row, col);
        let word = codes.codes[panel * (codes.codes.len() / codes.num_panels) + word] >> shift;
        let factor = panel * factors + col / codes.storage.group() * PANEL_ROWS + row % 8 * 2 + row / 8;
        let line = factor / 16 * 32 + factor % 16 / 2 * 4 + factor % 2;
        let scale = |place: usize| codes.scales[place].to_f32();
        match codes.storage {
            Storage::Bf16 | Storage::F16 => unreachable!("{:?} has no codes", codes.storage),
            Storage::Int4 { zeros, .. } => {
                let zero = if zeros { codes.zeros[factor] } else { 8 };
                scale(factor) * ((word & 15) as f32 - f32::from(zero))
            }
            Storage::Int8 { .. } => scale(factor) * f32::from(word as u8 as i8),
            Storage::Int4Min { .. } => scale(line) * (word & 15) as f32 + scale(line + 2),
            Storage::Mxfp4 => {
                let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][word as usize & 7];
                let value = if word & 8 == 0 { size } else { -size };
                value * (f32::from(codes.zeros[factor]) - 127.0).exp2()
            }
            Storage::Int8Min { .. } => scale(line) * f32::from(word as u8 as i8) + scale(line + 2),
        }
    }

    /// Rows of numbers as files have them: random codes, scales that are not too large, zero points of four bits.
    fn file_rows(dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
        let row_bytes = dtype.row_bytes(cols).unwrap();
        let file: Vec<u8> = (0..rows * row_bytes).map(|i| ((i * 2654435761) >> 7) as u8).collect();
        let block_bytes = dtype.block_bytes();
        let halves: &[usize] = match dtype {
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[1, 3],
            DType::Q2_K => &[81, 83],
            DType::Q3_K => &[109],
            DType::Q6_K => &[209],
            DType::MXFP4 | DType::I8_ROW => &[],
            _ => &[1],
        };
        let has_zeros = matches!(Storage::of(dtype), Storage::Int4 { zeros: true, .. });
        let block = |block: &[u8]| {
            let mut block = block.to_vec();
            halves.iter().for_each(|&high| block[high] = block[high] & 0x83 | 0x20);
            if has_zeros {
                block[2] %= 17;
            }
            if dtype == DType::MXFP4 {
                block[0] &= 0x7f;
            }
            if dtype == DType::I8_ROW {
                block[3] = 0x3d;
            }
            block
        };
        file.chunks_exact(block_bytes).flat_map(block).collect()
    }

    fn written(storage: Storage, dtype: DType, file: &[u8], rows: usize, cols: usize) -> HostCodes {
        let mut codes = HostCodes::new(storage, rows, cols);
        let (row_bytes, mut parts) = (dtype.row_bytes(cols).unwrap(), BlockParts::new());
        for (panel, out) in codes.panels().iter_mut().enumerate() {
            for row in 0..PANEL_ROWS.min(rows - panel * PANEL_ROWS) {
                let blocks = file[(panel * PANEL_ROWS + row) * row_bytes..][..row_bytes].chunks(dtype.block_bytes());
                for (b, block) in blocks.enumerate() {
                    out.write(row, b * dtype.block_len(), dtype, block, &mut parts);
                }
            }
        }
        codes
    }

    use DType::*;
    const EXACT: [DType; 11] = [Q4_0, I4G32, I4G64, I4G128, U4G32, U4G64, U4G128, Q8_0, Q5_0, IQ4_NL, MXFP4];
    /// With a minimum, or with scales that are products.
    const LINES: [DType; 9] = [Q4_1, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS, U8G32];
    const SHAPE: (usize, usize) = (20, 512);

    fn check(storage: Storage, dtype: DType, tolerance: f32) {
        let (rows, cols) = SHAPE;
        let file = file_rows(dtype, rows, cols);
        let codes = written(storage, dtype, &file, rows, cols);
        let mut expected = vec![0.0; rows * cols];
        dequantize(dtype, &file, &mut expected);
        for (part, expected) in expected.chunks_exact(16).enumerate() {
            let largest = expected.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            for (i, &expected) in expected.iter().enumerate() {
                let at = part * 16 + i;
                let found = read(&codes, cols, at / cols, at % cols);
                assert!((found - expected).abs() <= tolerance * largest, "{dtype} {at}: {found}, not {expected}");
            }
        }
        let bytes = 4 * codes.codes.len() + 2 * codes.scales.len() + codes.zeros.len();
        assert_eq!(bytes, storage.num_bytes(rows, cols));
    }

    #[test]
    fn codes_stand_for_what_the_file_says() {
        for dtype in EXACT {
            check(Storage::of(dtype), dtype, 0.0);
        }
        // Scales of f32 are rounded to f16.
        check(Storage::of(I8_ROW), I8_ROW, 2f32.powi(-11));
        // Factors of 11 bits; minima may be larger than what they leave.
        for dtype in LINES {
            check(Storage::of(dtype), dtype, 0.005);
        }
    }

    #[test]
    fn f16_stays_below_f16_alone() {
        assert_eq!(Storage::of(F16).common(Storage::of(F16)), Storage::F16);
        for other in [F32, BF16, Q4_0, U4G128, Q6_K, MXFP4].map(Storage::of) {
            assert_eq!(Storage::of(F16).common(other), Storage::Bf16);
            assert_eq!(other.common(Storage::of(F16)), Storage::Bf16);
        }
    }

    /// Matrices of different types that read one input.
    #[test]
    fn all_types_of_codes_fit_one() {
        let all = || EXACT.into_iter().chain(LINES);
        for dtype in all() {
            for other in all() {
                let (a, b) = (Storage::of(dtype), Storage::of(other));
                assert_eq!(a.common(b), b.common(a));
                match a.common(b) {
                    Storage::Bf16 => assert_ne!(dtype == MXFP4, other == MXFP4),
                    codes => check(codes, dtype, 0.005),
                }
            }
        }
    }
}
