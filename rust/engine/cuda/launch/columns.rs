//! Activations in the order of a matrix's columns.

use half::bf16;

use super::{Args, Call, KernelId, blocks, halves, words};
use crate::cuda::driver::{DeviceSlice, LaunchShape};

/// Widest rows that the kernel takes.
pub const MAX_ORDERED: usize = 16384;

/// out[t][j] = x[t][order[j]]
pub struct OrderColumns<'a> {
    /// (num_tokens, width)
    pub x: DeviceSlice<'a, bf16>,
    /// (columns,)
    pub order: DeviceSlice<'a, i32>,
    /// (num_tokens, columns)
    pub out: DeviceSlice<'a, bf16>,
    pub width: usize,
}

impl Call for OrderColumns<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::OrderColumns
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.x.len() / self.width, 1, 1], 256)
    }

    fn args(&self) -> Args {
        let &Self { x, order, out, width } = self;
        assert!(width.is_multiple_of(8) && width <= MAX_ORDERED && order.len().is_multiple_of(2), "rows of {width}");
        assert_eq!((x.len() / width * width, x.len() / width * order.len()), (x.len(), out.len()));
        [x.into(), order.into(), out.into(), width.into(), order.len().into()].into()
    }

    fn num_bytes(&self) -> u64 {
        halves(self.x.len() + self.out.len()) + words(self.order.len())
    }
}
