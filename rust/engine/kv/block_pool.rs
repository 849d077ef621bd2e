//! Reference counts of the KV blocks, and the free list.

use std::collections::BTreeSet;

use crate::ids::BlockId;

#[derive(Debug, Clone, Default)]
struct Block {
    /// Tables that hold this block. 0: it is in the free list.
    num_refs: u32,
    /// The prefix cache knows its contents.
    is_cached: bool,
    prev: Option<BlockId>,
    next: Option<BlockId>,
}

impl Block {
    /// It is free, and what is in it is of no use.
    fn is_unknown(&self) -> bool {
        self.num_refs == 0 && !self.is_cached
    }
}

/// What a block is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockState {
    /// Nobody holds it, and nobody knows what is in it.
    Free,
    /// Nobody holds it, but the prefix cache knows what is in it.
    Cached,
    /// One table holds it.
    Used,
    /// Several tables hold it.
    Shared,
}

/// Who holds which block is counted here; what is inside belongs to the prefix cache.
///
/// The free list is linked through the blocks, and its order is the order of reuse:
/// ```text
/// head  | contents unknown | cached, least recently used first |  tail
///         take() ->                                  <- release()
/// ```
#[derive(Debug)]
pub struct BlockPool {
    blocks: Vec<Block>,
    head: Option<BlockId>,
    tail: Option<BlockId>,
    num_free: usize,
    /// Blocks per extent.
    extent: usize,
    /// By extent: its blocks that are held or cached.
    num_taken: Vec<usize>,
    /// Extents of which none is.
    fresh: BTreeSet<usize>,
}

impl BlockPool {
    /// All blocks free, in ascending order, where `extent` blocks each lie side by side in memory.
    pub fn new(num_blocks: usize, extent: usize) -> Self {
        assert!(u32::try_from(num_blocks).is_ok(), "block ids have 32 bits");
        let extents = (0..num_blocks).step_by(extent).map(|first| extent.min(num_blocks - first));
        let mut pool = Self {
            blocks: vec![Block::default(); num_blocks],
            head: None,
            tail: None,
            num_free: 0,
            extent,
            num_taken: vec![0; extents.len()],
            fresh: (0..extents.len()).collect(),
        };
        for id in 0..num_blocks as u32 {
            pool.push_back(BlockId(id));
        }
        pool
    }

    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    pub fn num_free(&self) -> usize {
        self.num_free
    }

    pub fn num_used(&self) -> usize {
        self.blocks.len() - self.num_free
    }

    pub fn num_refs(&self, id: BlockId) -> u32 {
        self.blocks[id.index()].num_refs
    }

    pub fn is_cached(&self, id: BlockId) -> bool {
        self.blocks[id.index()].is_cached
    }

    /// Of a block that is held.
    pub fn set_cached(&mut self, id: BlockId, is_cached: bool) {
        let block = &mut self.blocks[id.index()];
        assert!(block.num_refs > 0, "block {id} is cached or forgotten, but nobody holds it");
        block.is_cached = is_cached;
    }

    /// In the order of their ids.
    pub fn states(&self) -> impl Iterator<Item = BlockState> + '_ {
        self.blocks.iter().map(|block| match (block.num_refs, block.is_cached) {
            (0, false) => BlockState::Free,
            (0, true) => BlockState::Cached,
            (1, _) => BlockState::Used,
            _ => BlockState::Shared,
        })
    }

    /// A free block with one reference: the one after `near` in its extent if its contents are unknown, else the first of
    /// an extent that nobody has blocks of, best the next one, else the first to be reused. So blocks of a sequence lie
    /// side by side, though others grow meanwhile. A block that is still cached must be evicted by the caller.
    pub fn take(&mut self, near: Option<BlockId>) -> Option<BlockId> {
        let id = near.and_then(|near| self.unknown_after(near)).or_else(|| self.first_fresh()).or(self.head)?;
        self.unlink(id);
        self.set_num_refs(id, 1);
        Some(id)
    }

    /// One more reference to a block, free (a prefix hit) or not.
    pub fn share(&mut self, id: BlockId) {
        let num_refs = self.num_refs(id);
        if num_refs == 0 {
            self.unlink(id);
        }
        self.set_num_refs(id, num_refs + 1);
    }

    /// One reference less. The last one frees the block; a cached block keeps its contents until reuse.
    pub fn release(&mut self, id: BlockId) {
        let num_refs = self.num_refs(id);
        assert!(num_refs > 0, "block {id} is released, but nobody holds it");
        self.set_num_refs(id, num_refs - 1);
        match (num_refs - 1, self.is_cached(id)) {
            (0, true) => self.push_back(id),
            (0, false) => self.push_front(id),
            _ => {}
        }
    }

    fn unknown_after(&self, id: BlockId) -> Option<BlockId> {
        let next = id.index() + 1;
        let is_unknown = next < self.blocks.len()
            && if next.is_multiple_of(self.extent) {
                self.fresh.contains(&(next / self.extent))
            } else {
                self.blocks[next].is_unknown()
            };
        is_unknown.then_some(BlockId(next as u32))
    }

    fn first_fresh(&self) -> Option<BlockId> {
        self.fresh.first().map(|&extent| BlockId((extent * self.extent) as u32))
    }

    fn set_num_refs(&mut self, id: BlockId, num_refs: u32) {
        let block = &mut self.blocks[id.index()];
        let was_unknown = block.is_unknown();
        block.num_refs = num_refs;
        let extent = id.index() / self.extent;
        match (was_unknown, block.is_unknown()) {
            (true, false) => {
                self.num_taken[extent] += 1;
                self.fresh.remove(&extent);
            }
            (false, true) => {
                self.num_taken[extent] -= 1;
                if self.num_taken[extent] == 0 {
                    self.fresh.insert(extent);
                }
            }
            _ => {}
        }
    }

    fn push_back(&mut self, id: BlockId) {
        let prev = self.tail.replace(id);
        self.set_next(prev, Some(id));
        self.link(id, prev, None);
    }

    fn push_front(&mut self, id: BlockId) {
        let next = self.head.replace(id);
        self.set_prev(next, Some(id));
        self.link(id, None, next);
    }

    fn link(&mut self, id: BlockId, prev: Option<BlockId>, next: Option<BlockId>) {
        let block = &mut self.blocks[id.index()];
        (block.prev, block.next) = (prev, next);
        self.num_free += 1;
    }

    fn unlink(&mut self, id: BlockId) {
        let block = &mut self.blocks[id.index()];
        let (prev, next) = (block.prev.take(), block.next.take());
        self.set_next(prev, next);
        self.set_prev(next, prev);
        self.num_free -= 1;
    }

    /// `None` stands for the list itself: what follows it is the head.
    fn set_next(&mut self, id: Option<BlockId>, next: Option<BlockId>) {
        match id {
            Some(id) => self.blocks[id.index()].next = next,
            None => self.head = next,
        }
    }

    fn set_prev(&mut self, id: Option<BlockId>, prev: Option<BlockId>) {
        match id {
            Some(id) => self.blocks[id.index()].prev = prev,
            None => self.tail = prev,
        }
    }

    /// Every block is either held or exactly once in the free list, and known contents come last.
    pub fn check_invariants(&self) {
        let mut is_listed = vec![false; self.blocks.len()];
        let (mut at, mut prev, mut seen_cached) = (self.head, None, false);
        while let Some(id) = at {
            let block = &self.blocks[id.index()];
            assert!(!std::mem::replace(&mut is_listed[id.index()], true), "block {id} is free twice");
            assert_eq!(block.prev, prev, "block {id} has a wrong predecessor");
            assert!(block.is_cached || !seen_cached, "block {id} is unknown, but behind cached ones");
            seen_cached |= block.is_cached;
            (prev, at) = (at, block.next);
        }
        assert_eq!(self.tail, prev);
        assert_eq!(self.num_free, is_listed.iter().filter(|&&listed| listed).count());
        for (id, block) in self.blocks.iter().enumerate() {
            assert_eq!(block.num_refs == 0, is_listed[id], "block {id} is neither free nor held, or both");
        }
        for (extent, blocks) in self.blocks.chunks(self.extent).enumerate() {
            let num_taken = blocks.iter().filter(|block| !block.is_unknown()).count();
            assert_eq!(self.num_taken[extent], num_taken, "extent {extent}");
            assert_eq!(self.fresh.contains(&extent), num_taken == 0, "extent {extent}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn take_all(pool: &mut BlockPool) -> Vec<u32> {
        std::iter::from_fn(|| pool.take(None)).map(|id| id.0).collect()
    }

    #[test]
    fn a_fresh_pool_hands_out_ascending_ids() {
        assert_eq!(take_all(&mut BlockPool::new(5, 16)), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn reuse_takes_unknown_blocks_first_and_then_the_least_recently_released() {
        let mut pool = BlockPool::new(4, 16);
        take_all(&mut pool);
        for id in [2, 0, 3] {
            pool.set_cached(BlockId(id), true);
            pool.release(BlockId(id));
        }
        pool.release(BlockId(1));
        assert_eq!(take_all(&mut pool), [1, 2, 0, 3]);
    }

    #[test]
    fn the_neighbour_is_taken_unless_it_is_cached_or_held() {
        let mut pool = BlockPool::new(6, 16);
        assert_eq!(pool.take(Some(BlockId(2))), Some(BlockId(3)));
        assert_eq!(pool.take(Some(BlockId(2))), Some(BlockId(0)), "3 is held");
        pool.set_cached(BlockId(3), true);
        pool.release(BlockId(3));
        assert_eq!(pool.take(Some(BlockId(2))), Some(BlockId(1)), "3 is cached");
        assert_eq!(pool.take(Some(BlockId(5))), Some(BlockId(2)), "5 is the last");
    }

    #[test]
    fn who_cannot_go_on_side_by_side_begins_an_extent_that_nobody_has_blocks_of() {
        let mut pool = BlockPool::new(12, 4);
        let mut take = |near| pool.take(near).map(|id| id.0);
        assert_eq!((take(None), take(None)), (Some(0), Some(4)), "each has an extent");
        assert_eq!((take(Some(BlockId(0))), take(Some(BlockId(4)))), (Some(1), Some(5)));
        assert_eq!(take(Some(BlockId(3))), Some(8), "the next extent is not fresh");
        assert_eq!(take(None), Some(2), "none is");
        for id in [4, 5] {
            pool.release(BlockId(id));
        }
        assert_eq!(pool.take(Some(BlockId(3))), Some(BlockId(4)), "the next extent is fresh again");
    }

    #[test]
    fn a_state_says_who_holds_a_block_and_whether_its_contents_are_known() {
        let mut pool = BlockPool::new(4, 16);
        take_all(&mut pool);
        pool.share(BlockId(0));
        for id in [2, 3] {
            pool.set_cached(BlockId(id), id == 2);
            pool.release(BlockId(id));
        }
        let states: Vec<_> = pool.states().collect();
        assert_eq!(states, [BlockState::Shared, BlockState::Used, BlockState::Cached, BlockState::Free]);
    }

    #[test]
    #[should_panic(expected = "nobody holds it")]
    fn a_double_release_is_caught() {
        let mut pool = BlockPool::new(1, 16);
        let id = pool.take(None).unwrap();
        pool.release(id);
        pool.release(id);
    }

    proptest! {
        /// Against a plain list of reference counts.
        #[test]
        fn counts_equal_a_plain_model(ops in prop::collection::vec((0u8..4, 0u32..6, any::<bool>()), 0..80)) {
            let mut pool = BlockPool::new(6, 4);
            let mut refs = [0u32; 6];
            for (op, id, flag) in ops {
                let (block, held) = (BlockId(id), &mut refs[id as usize]);
                match op {
                    0 => {
                        if let Some(taken) = pool.take(flag.then_some(block)) {
                            pool.set_cached(taken, false);
                            refs[taken.index()] += 1;
                            prop_assert_eq!(refs[taken.index()], 1);
                        } else {
                            prop_assert!(refs.iter().all(|&r| r > 0));
                        }
                    }
                    1 if *held > 0 || pool.is_cached(block) => { pool.share(block); *held += 1; }
                    2 if *held > 0 => { pool.release(block); *held -= 1; }
                    3 if *held > 0 => pool.set_cached(block, flag),
                    _ => {}
                }
                pool.check_invariants();
                for (id, &r) in refs.iter().enumerate() {
                    prop_assert_eq!(pool.num_refs(BlockId(id as u32)), r);
                }
            }
        }
    }
}
