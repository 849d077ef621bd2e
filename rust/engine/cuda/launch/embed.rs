//! Tokens to rows of the residual stream.

use half::{bf16, f16};

use super::{Args, Call, KernelId, blocks, halves, words};
use crate::cuda::driver::{Arg, DeviceSlice, LaunchShape};

/// Rows that tokens stand for: (vocab_size, hidden_size).
#[derive(Clone, Copy)]
pub enum EmbedTable<'a> {
    Bf16(DeviceSlice<'a, bf16>),
    F16(DeviceSlice<'a, f16>),
}

impl EmbedTable<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bf16(table) => table.len(),
            Self::F16(table) => table.len(),
        }
    }
}

impl From<EmbedTable<'_>> for Arg {
    fn from(table: EmbedTable<'_>) -> Self {
        match table {
            EmbedTable::Bf16(table) => table.into(),
            EmbedTable::F16(table) => table.into(),
        }
    }
}

/// residual[t] = table[chosen[sources[t]]] * scale; where the source is negative, of tokens[t].
pub struct Embed<'a> {
    /// (num_tokens,)
    pub tokens: DeviceSlice<'a, i32>,
    /// (num_tokens,)
    pub sources: DeviceSlice<'a, i32>,
    pub chosen: DeviceSlice<'a, i32>,
    pub table: EmbedTable<'a>,
    /// (num_tokens, hidden_size)
    pub residual: DeviceSlice<'a, f32>,
    pub scale: f32,
    pub hidden_size: usize,
}

impl Call for Embed<'_> {
    fn kernel(&self) -> KernelId {
        match self.table {
            EmbedTable::Bf16(_) => KernelId::Embed,
            EmbedTable::F16(_) => KernelId::EmbedF16,
        }
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.tokens.len(), 1, 1], 128)
    }

    fn args(&self) -> Args {
        assert_eq!(self.residual.len(), self.tokens.len() * self.hidden_size);
        assert_eq!(self.sources.len(), self.tokens.len());
        assert_eq!(self.table.len() % self.hidden_size, 0);
        let (scale, hidden_size) = (self.scale.into(), self.hidden_size.into());
        let (tokens, sources, chosen) = (self.tokens.into(), self.sources.into(), self.chosen.into());
        [tokens, sources, chosen, self.table.into(), self.residual.into(), scale, hidden_size].into()
    }

    fn num_bytes(&self) -> u64 {
        let numbers = self.residual.len();
        words(2 * self.tokens.len()) + halves(numbers) + words(numbers)
    }
}
