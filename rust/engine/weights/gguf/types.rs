//! Type numbers of GGUF tensors.

use std::fmt;

use crate::quant::DType;

/// What a tensor's type number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    Runs(DType),
    /// Known to ggml, not to Ferrule.
    Named(&'static str),
    Unknown(u32),
}

impl TensorType {
    pub fn from_number(number: u32) -> Self {
        use DType::*;
        use TensorType::*;
        match number {
            0 => Runs(F32),
            1 => Runs(F16),
            2 => Runs(Q4_0),
            3 => Runs(Q4_1),
            6 => Runs(Q5_0),
            7 => Runs(Q5_1),
            8 => Runs(Q8_0),
            9 => Named("Q8_1"),
            10 => Runs(Q2_K),
            11 => Runs(Q3_K),
            12 => Runs(Q4_K),
            13 => Runs(Q5_K),
            14 => Runs(Q6_K),
            15 => Named("Q8_K"),
            16 => Named("IQ2_XXS"),
            17 => Named("IQ2_XS"),
            18 => Named("IQ3_XXS"),
            19 => Named("IQ1_S"),
            20 => Runs(IQ4_NL),
            21 => Named("IQ3_S"),
            22 => Named("IQ2_S"),
            23 => Runs(IQ4_XS),
            24 => Named("I8"),
            25 => Named("I16"),
            26 => Named("I32"),
            27 => Named("I64"),
            28 => Named("F64"),
            29 => Named("IQ1_M"),
            30 => Runs(BF16),
            34 => Named("TQ1_0"),
            35 => Named("TQ2_0"),
            39 => Runs(MXFP4),
            _ => Unknown(number),
        }
    }
}

/// The number of a type that GGUF has.
pub fn number(dtype: DType) -> Option<u32> {
    (0..40).find(|&number| TensorType::from_number(number) == TensorType::Runs(dtype))
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs(dtype) => write!(f, "{dtype}"),
            Self::Named(name) => f.write_str(name),
            Self::Unknown(number) => write!(f, "of the unknown type {number}"),
        }
    }
}
