//! Tokens to rows of the residual stream.

use half::bf16;

use super::{Args, Call, KernelId, blocks, halves, words};
use crate::cuda::driver::{DeviceSlice, LaunchShape};

/// residual[t] = table[tokens[t]] * scale.
pub struct Embed<'a> {
    /// (num_tokens,)
    pub tokens: DeviceSlice<'a, i32>,
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
        assert_eq!(self.table.len() % self.hidden_size, 0);
        [self.tokens.into(), self.table.into(), self.residual.into(), self.scale.into(), self.hidden_size.into()].into()
    }

    fn num_bytes(&self) -> u64 {
        let numbers = self.residual.len();
        words(self.tokens.len()) + halves(numbers) + words(numbers)
    }
}
