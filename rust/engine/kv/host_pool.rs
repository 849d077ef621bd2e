//! Host memory for the blocks of sequences that gave way to others.

use crate::ids::HostBlockId;

/// What a sequence has in host memory: moved, not cloned, and given back by value.
#[derive(Debug)]
pub struct SwappedKv {
    /// One per group.
    pub(super) tables: Vec<SwappedTable>,
}

/// See [`super::BlockTable`].
#[derive(Debug)]
pub(super) struct SwappedTable {
    pub first_block: usize,
    pub blocks: Vec<HostBlockId>,
}

impl SwappedKv {
    pub fn num_blocks(&self) -> usize {
        self.tables.iter().map(|table| table.blocks.len()).sum()
    }
}

/// Which room in host memory is free.
#[derive(Debug)]
pub struct HostPool {
    num_blocks: usize,
    /// The next one last.
    free: Vec<HostBlockId>,
}

impl HostPool {
    pub fn new(num_blocks: usize) -> Self {
        let num = u32::try_from(num_blocks).expect("block ids have 32 bits");
        Self { num_blocks, free: (0..num).rev().map(HostBlockId).collect() }
    }

    pub fn num_free(&self) -> usize {
        self.free.len()
    }

    /// Neighbours where there are some. The caller has counted that there are enough.
    pub fn take(&mut self) -> HostBlockId {
        self.free.pop().expect("the number of free blocks was checked")
    }

    pub fn release(&mut self, kv: SwappedKv) {
        let blocks = kv.tables.into_iter().rev().flat_map(|table| table.blocks.into_iter().rev());
        self.free.extend(blocks);
    }

    /// Each block is free or held once.
    pub fn check_invariants<'a>(&self, swapped: impl Iterator<Item = &'a SwappedKv>) {
        let held = swapped.flat_map(|kv| &kv.tables).flat_map(|table| &table.blocks);
        let mut all: Vec<HostBlockId> = held.chain(&self.free).copied().collect();
        all.sort_unstable();
        let every = (0..self.num_blocks as u32).map(HostBlockId);
        assert!(all.into_iter().eq(every), "a block of host memory is lost, or held twice");
    }
}
