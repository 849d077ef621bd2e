//! Where one group of layers finds one sequence's blocks.

use crate::ids::BlockId;

/// Entry `i` holds the positions `(first_block + i) * block_size ..`; earlier ones have left the window.
///
/// It is moved, never cloned: each entry is one reference in the [`super::BlockPool`], and the manager
/// that counted it takes the table back by value.
#[derive(Debug)]
pub struct BlockTable {
    first_block: usize,
    blocks: Vec<BlockId>,
}

impl BlockTable {
    pub(super) fn new(first_block: usize, blocks: Vec<BlockId>) -> Self {
        Self { first_block, blocks }
    }

    pub fn first_block(&self) -> usize {
        self.first_block
    }

    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// One past the last block's index in the sequence.
    pub fn end_block(&self) -> usize {
        self.first_block + self.blocks.len()
    }

    /// The block of index `index` in the sequence. None: before the window, or not allocated yet.
    pub fn get(&self, index: usize) -> Option<BlockId> {
        self.blocks.get(index.checked_sub(self.first_block)?).copied()
    }

    pub(super) fn push(&mut self, id: BlockId) {
        self.blocks.push(id);
    }

    /// Puts the blocks from `index` on in ascending order, as memory is read. They must be empty still.
    pub(super) fn sort_from(&mut self, index: usize) {
        self.blocks[index - self.first_block..].sort_unstable();
    }

    pub(super) fn replace(&mut self, index: usize, id: BlockId) -> BlockId {
        std::mem::replace(&mut self.blocks[index - self.first_block], id)
    }

    /// Gives back the blocks before `first_block`.
    pub(super) fn slide_to(&mut self, first_block: usize) -> impl Iterator<Item = BlockId> + '_ {
        let num_left = first_block.saturating_sub(self.first_block);
        self.first_block += num_left;
        self.blocks.drain(..num_left)
    }

    pub(super) fn into_blocks(self) -> Vec<BlockId> {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_stay_when_the_window_slides() {
        let mut table = BlockTable::new(2, vec![BlockId(7), BlockId(5), BlockId(6)]);
        assert_eq!(table.slide_to(1).count(), 0, "never backwards");
        assert_eq!(table.slide_to(3).collect::<Vec<_>>(), [BlockId(7)]);
        assert_eq!((table.first_block(), table.end_block()), (3, 5));
        assert_eq!((table.get(2), table.get(3), table.get(5)), (None, Some(BlockId(5)), None));
    }
}
