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

/// Masks, bias, bans and penalties, in place.
pub struct EditLogits<'a> {
    /// (num_rows, vocab_size)
    pub logits: DeviceSlice<'a, f32>,
    /// (num_rows, ceil(vocab_size / 32)): tokens whose bit is 0 are forbidden. None: all are allowed.
    pub masks: Option<DeviceSlice<'a, u32>>,
    /// (num_rows + 1,): where a row's edits begin.
    pub starts: DeviceSlice<'a, u32>,
    /// (num_edits, 4): token, bias, count, flags.
    pub edits: DeviceSlice<'a, u32>,
    /// (num_rows, 3): repetition, frequency, presence.
    pub penalties: DeviceSlice<'a, u32>,
    pub vocab_size: usize,
}

impl EditLogits<'_> {
    fn num_rows(&self) -> usize {
        self.logits.len() / self.vocab_size
    }
}

impl Call for EditLogits<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::EditLogits
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.vocab_size.div_ceil(1024), self.num_rows(), 1], 256)
    }

    fn args(&self) -> Args {
        assert_eq!(self.logits.len(), self.num_rows() * self.vocab_size);
        assert_eq!((self.starts.len(), self.penalties.len()), (self.num_rows() + 1, 3 * self.num_rows()));
        assert_eq!(self.edits.len() % 4, 0);
        let mask_words = self.num_rows() * self.vocab_size.div_ceil(32);
        assert!(self.masks.is_none_or(|masks| masks.len() == mask_words));
        [
            self.logits.into(),
            self.masks.into(),
            self.starts.into(),
            self.edits.into(),
            self.penalties.into(),
            self.vocab_size.into(),
        ]
        .into()
    }

    fn num_bytes(&self) -> u64 {
        let masks = self.masks.map_or(0, |masks| masks.len());
        words(self.starts.len() + self.penalties.len() + masks + self.edits.len() + self.edits.len() / 2)
    }
}

/// A token of each row that is asked for.
pub struct Sample<'a> {
    /// (num_rows, vocab_size)
    pub logits: DeviceSlice<'a, f32>,
    /// (num_choices,)
    pub rows: DeviceSlice<'a, u32>,
    /// (num_choices, 8)
    pub requests: DeviceSlice<'a, u32>,
    /// (num_choices,)
    pub tokens: DeviceSlice<'a, i32>,
    pub vocab_size: usize,
}

impl Call for Sample<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::Sample
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.tokens.len(), 1, 1], 1024)
    }

    fn args(&self) -> Args {
        assert_eq!(self.logits.len() % self.vocab_size, 0);
        assert_eq!((self.rows.len(), self.requests.len()), (self.tokens.len(), 8 * self.tokens.len()));
        let vocab_size = self.vocab_size.into();
        [self.logits.into(), self.rows.into(), self.requests.into(), self.tokens.into(), vocab_size].into()
    }

    fn num_bytes(&self) -> u64 {
        words(self.tokens.len() * (self.vocab_size + 10))
    }
}
