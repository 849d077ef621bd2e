//! What can be made, as data.

use std::fmt;

use super::round::Codes;
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Four bits, rounded to the nearest: the baseline. GPTQ's tensors.
    Int4,
    /// Four bits by GPTQ.
    Int4Gptq,
    /// Four bits with zero points by AWQ.
    Int4Awq,
    /// Eight bits, for activations of any type.
    Int8,
    /// Eight bits a row, for activations of eight bits, with SmoothQuant.
    Int8W8A8,
}

/// How tensors lie in the folder that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// AutoGPTQ's.
    Gptq,
    /// AutoAWQ's, version GEMM.
    Awq,
    /// compressed-tensors' `pack-quantized`.
    Packed,
    /// compressed-tensors' `int-quantized`.
    Plain,
}

impl Scheme {
    pub const ALL: [Self; 5] = [Self::Int4, Self::Int4Gptq, Self::Int4Awq, Self::Int8, Self::Int8W8A8];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Int4 => "int4",
            Self::Int4Gptq => "int4-gptq",
            Self::Int4Awq => "int4-awq",
            Self::Int8 => "int8",
            Self::Int8W8A8 => "int8-w8a8",
        }
    }

    pub const fn codes(self) -> Codes {
        match self {
            Self::Int4 | Self::Int4Gptq => Codes { bits: 4, zero_point: false },
            Self::Int4Awq => Codes { bits: 4, zero_point: true },
            Self::Int8 | Self::Int8W8A8 => Codes { bits: 8, zero_point: false },
        }
    }

    pub const fn layout(self) -> Layout {
        match self {
            Self::Int4 | Self::Int4Gptq => Layout::Gptq,
            Self::Int4Awq => Layout::Awq,
            Self::Int8 => Layout::Packed,
            Self::Int8W8A8 => Layout::Plain,
        }
    }

    /// Whether the choice of codes depends on what the model computes.
    pub const fn calibrates(self) -> bool {
        !matches!(self, Self::Int4 | Self::Int8)
    }

    /// Whether whole rows share a scale.
    pub const fn by_row(self) -> bool {
        matches!(self, Self::Int8W8A8)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Group sizes that the formats have, largest first.
const GROUPS: [usize; 3] = [128, 64, 32];

/// The columns that share a scale: `asked`, or the largest size of which every width is a multiple.
pub fn group_size(asked: Option<usize>, widths: &[usize]) -> Result<usize> {
    let fits = |group: usize| widths.iter().all(|width| width.is_multiple_of(group));
    match asked {
        Some(group) if !GROUPS.contains(&group) => {
            Err(Error::InvalidConfig(format!("a group size of {group}: it must be 32, 64 or 128")))
        }
        Some(group) if !fits(group) => Err(Error::InvalidConfig(format!(
            "a group size of {group}, but the model's matrices have {widths:?} columns"
        ))),
        Some(group) => Ok(group),
        None => GROUPS.into_iter().find(|&group| fits(group)).ok_or_else(|| {
            Error::InvalidConfig(format!("the model's matrices have {widths:?} columns, which are no groups of 32"))
        }),
    }
}
