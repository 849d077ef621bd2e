//! The arrays of a step, made those of the next one.

use super::{Args, Call, KernelId, Queries, blocks, words};
use crate::cuda::driver::{DeviceSlice, LaunchShape};

/// The same sequences with one token more.
pub struct AdvanceBatch<'a> {
    /// All of the arrays of the step before: the others are parts of it.
    pub arrays: DeviceSlice<'a, i32>,
    /// Their number, then pairs of a place in `arrays` and what it becomes, before anything else.
    pub changes: DeviceSlice<'a, i32>,
    /// (num_seqs,)
    pub positions: DeviceSlice<'a, i32>,
    /// (num_seqs,) [`Queries`], of one each.
    pub queries: DeviceSlice<'a, i32>,
    /// (num_seqs,), of the first KV group.
    pub slots: DeviceSlice<'a, i32>,
    /// (num_seqs, max_blocks), of the first KV group.
    pub tables: DeviceSlice<'a, i32>,
    pub num_groups: usize,
    /// From a group's slots and tables to the next one's.
    pub stride: usize,
}

impl Call for AdvanceBatch<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::AdvanceBatch
    }

    fn shape(&self) -> LaunchShape {
        blocks([1, 1, 1], 256)
    }

    fn args(&self) -> Args {
        let num_seqs = self.positions.len();
        assert_eq!((self.queries.len(), self.slots.len()), (num_seqs * Queries::WORDS, num_seqs));
        assert_eq!(self.tables.len() % num_seqs, 0);
        assert!(self.num_groups * self.stride <= self.arrays.len() && !self.changes.is_empty());
        let mut args: Args = [self.arrays, self.changes, self.positions, self.queries].map(Into::into).into();
        args.extend(&[self.slots.into(), self.tables.into()]);
        *args.extend(&[num_seqs, self.tables.len() / num_seqs, self.num_groups, self.stride].map(Into::into))
    }

    fn num_bytes(&self) -> u64 {
        let num_seqs = self.positions.len();
        words(1 + num_seqs * (4 + 2 * self.num_groups))
    }
}
