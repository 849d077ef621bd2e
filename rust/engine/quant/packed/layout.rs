//! How a panel's numbers lie, as data: one row of a table per layout.
//!
//! A quantized panel is a row of blocks, each 16 rows by [`BlockSpec::cols`] columns:
//!
//! ```text
//! scale  f16 [16]            one per row; bf16 if `bf16_scale`
//! min    f16 [16]            if `min`; if `zero`, i16 [16]: the minimum is scale * min
//! scales i8  [groups][16]    if `sub_scales`: the group's scale is scale * scales
//! mins   i8  [groups][16]    if `sub_scales` and `min`: the group's minimum is min * mins
//! codes  [groups], each one or two planes of lines [16][4]
//!        8 bits: byte b of row r in line j is column 4 j + b
//!        4 bits: its low nibble is column 8 j + b, its high nibble column 8 j + 4 + b
//!        2 bits: bits 2 i and 2 i + 1 are of column 16 j + 4 i + b
//!        1 bit:  bit i is of column 32 j + 4 i + b
//! ```
//!
//! Codes of five and six bits are a plane of four, and one of what is above. A nibble is a code, or the place of one in
//! `values` if there are any.
//! A weight is `scale * (code - offset) + minimum`, rounded after each step, which is what GGUF's
//! reference decoders compute, bit for bit. One 64-byte line of codes is what one VNNI instruction takes.

use super::super::DType;
use super::super::blocks::{IQ4_VALUES, MXFP4_VALUES};
use super::PANEL_ROWS;

/// The version of what is kept on disk. It goes up whenever the same tensor packs to other bytes.
pub const LAYOUT_VERSION: u32 = 2;

/// How a panel's numbers lie. Every file type maps to one of these without loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Q4_0 and I4G32.
    Q4,
    /// Q4_1.
    Q4Min,
    /// Q5_0.
    Q5,
    /// Q8_0.
    Q8,
    /// Q5_1.
    Q5Min,
    /// Q4_K.
    K4Min,
    /// Q5_K.
    K5Min,
    /// Q2_K.
    K4Min16,
    /// Q3_K.
    K4Sub16,
    /// Q6_K.
    K6Sub16,
    /// IQ4_NL.
    Iq4,
    /// IQ4_XS.
    Iq4Sub,
    /// MXFP4.
    Mx4,
    I4G64,
    I4G128,
    U4G32,
    U4G64,
    U4G128,
    U8G32,
    /// (cols, 16) per panel.
    F32,
    F16,
    Bf16,
    /// 32 columns at a time: f32 [16], one scale per row, and codes (32, 16).
    F8,
    /// I8_ROW: f32 [16], one scale per row, and codes as those of a quantized panel's eight bits, with an offset of 128.
    I8Row,
}

/// Bytes of the scales of `Layout::I8Row`, in front of a panel's codes.
pub const ROW_SCALES: usize = 4 * PANEL_ROWS;
/// What its codes have more than they stand for.
pub const ROW_OFFSET: u8 = 128;

/// Columns of a block of `Layout::F8`.
pub const F8_COLS: usize = 32;
/// Bytes of its scales, which stand first.
pub const F8_SCALES: usize = 4 * PANEL_ROWS;
pub const F8_BYTES: usize = F8_SCALES + F8_COLS * PANEL_ROWS;

/// The shape of a quantized layout's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSpec {
    pub cols: usize,
    /// Columns that share a scale: 16 or 32.
    pub group: usize,
    /// Bits that a code takes: 4, 5, 6 or 8.
    pub bits: usize,
    /// Bits that a code has, after `values`: the highest ones of those that it takes are zero.
    pub code_bits: usize,
    /// Subtracted from codes: 0 or a power of two.
    pub offset: i32,
    pub min: bool,
    /// Minima are whole multiples of the scale: negated zero points.
    pub zero: bool,
    pub sub_scales: bool,
    /// What nibbles stand for, with the offset added.
    pub values: Option<&'static [u8; 16]>,
    pub bf16_scale: bool,
}

/// Codes of these values.
const fn codes_of(values: &[i8; 16], offset: i16) -> [u8; 16] {
    let mut codes = [0; 16];
    let mut i = 0;
    while i < 16 {
        codes[i] = (values[i] as i16 + offset) as u8;
        i += 1;
    }
    codes
}

const IQ4: &[u8; 16] = &codes_of(&IQ4_VALUES, 128);
const MX4: &[u8; 16] = &codes_of(&MXFP4_VALUES, 16);

impl BlockSpec {
    const fn with_values(self, values: &'static [u8; 16]) -> Self {
        Self { values: Some(values), ..self }
    }

    const fn with_bf16_scale(self) -> Self {
        Self { bf16_scale: true, ..self }
    }

    pub const fn groups(&self) -> usize {
        self.cols / self.group
    }

    /// Whether several groups have one scale between them.
    pub const fn shares_scale(&self) -> bool {
        self.groups() > 1 && !self.sub_scales
    }

    const fn sub_scale_bytes(&self) -> usize {
        if self.sub_scales { self.groups() * PANEL_ROWS } else { 0 }
    }

    /// Offset of the minima, where there are any.
    pub const fn min_at(&self) -> usize {
        2 * PANEL_ROWS
    }

    pub const fn sub_scales_at(&self) -> usize {
        self.min_at() * (1 + self.min as usize)
    }

    pub const fn sub_mins_at(&self) -> usize {
        self.sub_scales_at() + self.sub_scale_bytes()
    }

    pub const fn codes_at(&self) -> usize {
        self.sub_scales_at() + self.sub_scale_bytes() * (1 + self.min as usize)
    }

    /// Bytes of one group's codes, 16 rows together.
    pub const fn group_bytes(&self) -> usize {
        self.plane_bytes(self.bits)
    }

    /// Bytes of `bits` bits of each of these codes.
    pub const fn plane_bytes(&self, bits: usize) -> usize {
        self.group * PANEL_ROWS * bits / 8
    }

    /// Bits of the plane above the nibbles; 0 where there is none.
    pub const fn high_bits(&self) -> usize {
        match self.bits {
            8 => 0,
            bits => bits - 4,
        }
    }

    /// How codes lie once they are unpacked: a byte each.
    pub const fn unpacked(self) -> Self {
        Self { bits: 8, values: None, ..self }
    }

    pub const fn bytes(&self) -> usize {
        self.codes_at() + self.groups() * self.group_bytes()
    }
}

/// A quantized layout as a type, so that kernels are compiled for its constants.
pub trait Format {
    const SPEC: BlockSpec;
}

macro_rules! formats {
    ($($name:ident { cols: $cols:literal, group: $group:literal, bits: $bits:literal, code_bits: $code_bits:literal,
                     offset: $offset:literal, min: $min:literal, zero: $zero:literal, sub_scales: $sub:literal }
                     $(.$with:ident($($arg:expr)?))*),+ $(,)?) => {
        /// The quantized layouts as types, named as their [`Layout`].
        pub mod format {
            use super::*;
            $(
                pub struct $name;
                impl Format for $name {
                    const SPEC: BlockSpec = BlockSpec {
                        cols: $cols, group: $group, bits: $bits, code_bits: $code_bits, offset: $offset, min: $min,
                        zero: $zero, sub_scales: $sub, values: None, bf16_scale: false,
                    }$(.$with($($arg)?))*;
                }
            )+
        }

        impl Layout {
            /// None: the layout is dense.
            pub const fn block(self) -> Option<BlockSpec> {
                match self {
                    $(Self::$name => Some(<format::$name as Format>::SPEC),)+
                    Self::F32 | Self::F16 | Self::Bf16 | Self::F8 | Self::I8Row => None,
                }
            }
        }

        /// `with_format!(layout, F => expr)`: the expression with `F` as the layout's type, or None if it is dense.
        macro_rules! with_format {
            ($layout:expr, $f:ident => $body:expr) => {
                match $layout {
                    $($crate::quant::Layout::$name => {
                        type $f = $crate::quant::format::$name;
                        Some($body)
                    })+
                    _ => None,
                }
            };
        }
        pub(crate) use with_format;
    };
}

formats! {
    Q4      { cols: 32,  group: 32, bits: 4, code_bits: 4, offset: 8,   min: false, zero: false, sub_scales: false },
    Q4Min   { cols: 32,  group: 32, bits: 4, code_bits: 4, offset: 0,   min: true,  zero: false, sub_scales: false },
    Q5      { cols: 32,  group: 32, bits: 5, code_bits: 5, offset: 16,  min: false, zero: false, sub_scales: false },
    Q8      { cols: 32,  group: 32, bits: 8, code_bits: 8, offset: 128, min: false, zero: false, sub_scales: false },
    Q5Min   { cols: 32,  group: 32, bits: 5, code_bits: 5, offset: 0,   min: true,  zero: false, sub_scales: false },
    K4Min   { cols: 256, group: 32, bits: 4, code_bits: 4, offset: 0,   min: true,  zero: false, sub_scales: true },
    K5Min   { cols: 256, group: 32, bits: 5, code_bits: 5, offset: 0,   min: true,  zero: false, sub_scales: true },
    K4Min16 { cols: 256, group: 16, bits: 4, code_bits: 2, offset: 0,   min: true,  zero: false, sub_scales: true },
    K4Sub16 { cols: 256, group: 16, bits: 4, code_bits: 3, offset: 4,   min: false, zero: false, sub_scales: true },
    K6Sub16 { cols: 256, group: 16, bits: 6, code_bits: 6, offset: 32,  min: false, zero: false, sub_scales: true },
    Iq4     { cols: 32,  group: 32, bits: 4, code_bits: 8, offset: 128, min: false, zero: false, sub_scales: false }
            .with_values(IQ4),
    Iq4Sub  { cols: 256, group: 32, bits: 4, code_bits: 8, offset: 128, min: false, zero: false, sub_scales: true }
            .with_values(IQ4),
    Mx4     { cols: 32,  group: 32, bits: 4, code_bits: 5, offset: 16,  min: false, zero: false, sub_scales: false }
            .with_values(MX4).with_bf16_scale(),
    I4G64   { cols: 64,  group: 32, bits: 4, code_bits: 4, offset: 8,   min: false, zero: false, sub_scales: false },
    I4G128  { cols: 128, group: 32, bits: 4, code_bits: 4, offset: 8,   min: false, zero: false, sub_scales: false },
    U4G32   { cols: 32,  group: 32, bits: 4, code_bits: 4, offset: 0,   min: true,  zero: true, sub_scales: false },
    U4G64   { cols: 64,  group: 32, bits: 4, code_bits: 4, offset: 0,   min: true,  zero: true, sub_scales: false },
    U4G128  { cols: 128, group: 32, bits: 4, code_bits: 4, offset: 0,   min: true,  zero: true, sub_scales: false },
    U8G32   { cols: 32,  group: 32, bits: 8, code_bits: 8, offset: 0,   min: true,  zero: true, sub_scales: false },
}

const _: () = {
    assert!(format::Q4::SPEC.bytes() == 288);
    assert!(format::Q4Min::SPEC.bytes() == 320);
    assert!(format::Q8::SPEC.bytes() == 544);
    assert!(format::K4Min::SPEC.bytes() == 2368);
    assert!(format::K5Min::SPEC.bytes() == 2880);
    assert!(format::K6Sub16::SPEC.bytes() == 3360);
    assert!(format::U4G128::SPEC.bytes() == 1088);
    assert!(format::U8G32::SPEC.bytes() == 576);
};

impl Layout {
    pub const fn of(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::Bf16,
            DType::F8_E4M3 => Self::F8,
            DType::I8_ROW => Self::I8Row,
            DType::Q4_0 | DType::I4G32 => Self::Q4,
            DType::Q4_1 => Self::Q4Min,
            DType::Q5_0 => Self::Q5,
            DType::Q8_0 => Self::Q8,
            DType::Q5_1 => Self::Q5Min,
            DType::Q2_K => Self::K4Min16,
            DType::Q3_K => Self::K4Sub16,
            DType::Q4_K => Self::K4Min,
            DType::Q5_K => Self::K5Min,
            DType::Q6_K => Self::K6Sub16,
            DType::IQ4_NL => Self::Iq4,
            DType::IQ4_XS => Self::Iq4Sub,
            DType::MXFP4 => Self::Mx4,
            DType::I4G64 => Self::I4G64,
            DType::I4G128 => Self::I4G128,
            DType::U4G32 => Self::U4G32,
            DType::U4G64 => Self::U4G64,
            DType::U4G128 => Self::U4G128,
            DType::U8G32 => Self::U8G32,
        }
    }

    /// Bytes of a panel of `cols` columns; a quantized layout's columns are whole blocks.
    pub const fn panel_bytes(self, cols: usize) -> usize {
        match self.block() {
            Some(spec) => cols / spec.cols * spec.bytes(),
            None => match self {
                Self::F32 => cols * PANEL_ROWS * 4,
                Self::F8 => cols / F8_COLS * F8_BYTES,
                Self::I8Row => ROW_SCALES + cols * PANEL_ROWS,
                _ => cols * PANEL_ROWS * 2,
            },
        }
    }

    /// Whether `Kernels::matmul_int8` serves it; dense layouts go through `matmul_f32`.
    pub const fn is_quantized(self) -> bool {
        self.block().is_some() || matches!(self, Self::I8Row)
    }

    /// Whether `Kernels::matmul_bf16` serves it: its numbers, or its codes, are bf16.
    pub const fn takes_bf16(self) -> bool {
        !matches!(self, Self::F32 | Self::F8)
    }
}
