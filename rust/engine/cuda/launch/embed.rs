//! Tokens to rows of the residual stream.

use half::bf16;

use super::{Args, Call, KernelId, blocks, halves, words};
use crate::cuda::driver::{DeviceSlice, LaunchShape};

/// residual[t] = table[chosen[sources[t]]] * scale; where the source is negative, of tokens[t].
pub struct Embed<'a> {
    /// (num_tokens,)
    pub tokens: DeviceSlice<'a, i32>,
    /// (num_tokens,)
    pub sources: DeviceSlice<'a, i32>,
    pub chosen: DeviceSlice<'a, i32>,
    /// (vocab_size, hidden_size)
    pub table: DeviceSlice<'a, bf16>,
    /// (num_tokens, hidden_size)
    pub residual: DeviceSlice<'a, f32>,
    pub scale: f32,
    pub hidden_size: usize,
}

impl Call for Embed<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::Embed
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
