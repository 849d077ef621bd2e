//! The types that tensors have in files.

use serde::{Deserialize, Serialize};

/// A tensor's element type. The quantized ones are GGUF's, and at the end those that tensors of GPTQ, AWQ and
/// compressed-tensors are read as: four bits in groups of 32, 64 or 128, symmetric (I4) or with zero points (U4), eight
/// bits with zero points (U8), eight bits whose rows have one scale each (I8), and floats of eight bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(non_camel_case_types)]
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    I4G32,
    I4G64,
    I4G128,
    U4G32,
    U4G64,
    U4G128,
    U8G32,
    /// Each 32 with the row's float32 scale.
    I8_ROW,
    /// Each 32 with a float32 scale.
    F8_E4M3,
}

impl DType {
    pub const ALL: [Self; 25] = {
        use DType::*;
        [
            F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, MXFP4, I4G32,
            I4G64, I4G128, U4G32, U4G64, U4G128, U8G32, I8_ROW, F8_E4M3,
        ]
    };

    /// Elements per block; rows are whole numbers of blocks.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::IQ4_NL | Self::MXFP4 => 32,
            Self::I4G32 | Self::U4G32 | Self::U8G32 | Self::I8_ROW | Self::F8_E4M3 => 32,
            Self::I4G64 | Self::U4G64 => 64,
            Self::I4G128 | Self::U4G128 => 128,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K | Self::IQ4_XS => 256,
        }
    }

    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
            Self::IQ4_NL => 18,
            Self::IQ4_XS => 136,
            Self::MXFP4 => 17,
            Self::I4G32 => 18,
            Self::I4G64 => 34,
            Self::I4G128 => 66,
            Self::U4G32 => 19,
            Self::U4G64 => 35,
            Self::U4G128 => 67,
            Self::U8G32 => 35,
            Self::I8_ROW | Self::F8_E4M3 => 36,
        }
    }

    /// Bytes of a row of `cols` elements. None: `cols` is no multiple of the block.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        match cols % self.block_len() {
            0 => Some(cols / self.block_len() * self.block_bytes()),
            _ => None,
        }
    }

    /// Bytes of a tensor of `shape`, outermost first. None: the rows are no whole blocks, or it overflows.
    pub fn num_bytes(self, shape: &[usize]) -> Option<usize> {
        let (cols, outer) = shape.split_last().unwrap_or((&1, &[]));
        let rows = outer.iter().try_fold(1usize, |rows, &dim| rows.checked_mul(dim))?;
        if cols % self.block_len() != 0 {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())?.checked_mul(rows)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2_K => "Q2_K",
            Self::Q3_K => "Q3_K",
            Self::Q4_K => "Q4_K",
            Self::Q5_K => "Q5_K",
            Self::Q6_K => "Q6_K",
            Self::IQ4_NL => "IQ4_NL",
            Self::IQ4_XS => "IQ4_XS",
            Self::MXFP4 => "MXFP4",
            Self::I4G32 => "I4G32",
            Self::I4G64 => "I4G64",
            Self::I4G128 => "I4G128",
            Self::U4G32 => "U4G32",
            Self::U4G64 => "U4G64",
            Self::U4G128 => "U4G128",
            Self::U8G32 => "U8G32",
            Self::I8_ROW => "I8_ROW",
            Self::F8_E4M3 => "F8_E4M3",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
