//! What happens to logits on the device.

use super::{Args, Call, KernelId, blocks, words};
use crate::cuda::driver::{DeviceSlice, LaunchShape};

/// logits = cap * tanh(logits / cap).
pub struct Softcap<'a> {
    /// (num_rows, vocab_size)
    pub logits: DeviceSlice<'a, f32>,
    pub vocab_size: usize,
    pub cap: f32,
}

impl Call for Softcap<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::Softcap
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.vocab_size.div_ceil(1024), self.logits.len() / self.vocab_size, 1], 256)
    }

    fn args(&self) -> Args {
        assert_eq!(self.logits.len() % self.vocab_size, 0);
        [self.logits.into(), self.vocab_size.into(), self.cap.into()].into()
    }

    fn num_bytes(&self) -> u64 {
        2 * words(self.logits.len())
    }
}
