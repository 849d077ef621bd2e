//! The feed-forward's gate.

use half::bf16;

use super::{Args, Call, KernelId, blocks, halves};
use crate::cuda::driver::{DeviceSlice, LaunchShape};
use crate::model::Activation;

/// out = activation(gate) * up.
pub struct GatedActivation<'a> {
    pub activation: Activation,
    /// (num_tokens, 2 * width): gates, then ups.
    pub gate_up: DeviceSlice<'a, bf16>,
    /// (num_tokens, width)
    pub out: DeviceSlice<'a, bf16>,
    pub width: usize,
}

impl Call for GatedActivation<'_> {
    fn kernel(&self) -> KernelId {
        match self.activation {
            Activation::Silu => KernelId::GatedSilu,
            Activation::GeluTanh => KernelId::GatedGeluTanh,
        }
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.width.div_ceil(1024), self.out.len() / self.width, 1], 128)
    }

    fn args(&self) -> Args {
        assert_eq!(self.out.len() % self.width, 0);
        assert_eq!(self.gate_up.len(), 2 * self.out.len());
        [self.gate_up.into(), self.out.into(), self.width.into()].into()
    }

    fn num_bytes(&self) -> u64 {
        halves(self.gate_up.len() + self.out.len())
    }
}
