//! The blocks of all sequences, over all groups of layers.

use std::ops::Range;

use super::block_pool::{BlockPool, BlockState};
use super::block_table::BlockTable;
use super::geometry::KvGeometry;
use super::host_pool::{HostPool, SwappedKv, SwappedTable};
use super::prefix_cache::{NodeId, PrefixCache};
use crate::ids::{BlockId, EXTENT_BLOCKS, TokenId};
use crate::sched::{BlockCopy, BlockSwap};

/// What one running sequence holds: moved, not cloned, and given back by value to [`BlockManager::free`].
#[derive(Debug)]
pub struct SequenceKv {
    /// One per group.
    tables: Vec<BlockTable>,
    /// None: this sequence cannot be cached.
    cursor: Option<Cursor>,
}

/// How far a sequence is published in the prefix cache.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    node: NodeId,
    num_blocks: usize,
}

impl SequenceKv {
    pub fn tables(&self) -> &[BlockTable] {
        &self.tables
    }
}

/// A waiting sequence asks for its blocks.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionQuery<'a> {
    pub tokens: &'a [TokenId],
    pub salt: &'a str,
    /// Most tokens to take from the prefix cache.
    pub max_hit_len: usize,
    /// Blocks that are free, but spoken for.
    pub num_promised: usize,
}

/// Allocates, shares, copies on write, caches and frees blocks.
#[derive(Debug)]
pub struct BlockManager {
    block_size: usize,
    /// One per group.
    windows: Vec<Option<usize>>,
    pool: BlockPool,
    host: HostPool,
    /// None: prefix caching is off.
    prefix_cache: Option<PrefixCache>,
    /// The nodes of the hit in hand.
    path: Vec<NodeId>,
}

impl BlockManager {
    pub fn new(geometry: &KvGeometry, enable_prefix_caching: bool) -> Self {
        let KvGeometry { num_blocks, block_size, ref groups, .. } = *geometry;
        Self {
            block_size,
            windows: groups.iter().map(|group| group.window).collect(),
            pool: BlockPool::new(num_blocks, EXTENT_BLOCKS),
            host: HostPool::new(geometry.num_host_blocks),
            prefix_cache: enable_prefix_caching.then(|| PrefixCache::new(num_blocks, block_size, groups.len())),
            path: Vec::new(),
        }
    }

    pub fn block_size(&self) -> usize {
        self.block_size
    }

    pub fn num_blocks(&self) -> usize {
        self.pool.num_blocks()
    }

    pub fn num_used_blocks(&self) -> usize {
        self.pool.num_used()
    }

    /// Of all blocks, in the order of their ids.
    pub fn block_states(&self) -> impl Iterator<Item = BlockState> + '_ {
        self.pool.states()
    }

    pub fn num_free_blocks(&self) -> usize {
        self.pool.num_free()
    }

    /// Most blocks that a sequence of `len` tokens holds while it is computed one token at a time.
    pub fn blocks_alone(&self, len: usize) -> usize {
        self.windows.iter().map(|&window| self.peak_blocks(window, len)).sum()
    }

    /// Longest sequence that the pool holds alone. `usize::MAX` if all groups slide within it.
    pub fn max_tokens_alone(&self) -> usize {
        let all_slide = self.windows.iter().all(Option::is_some);
        if all_slide && self.blocks_alone(usize::MAX) <= self.num_blocks() {
            return usize::MAX;
        }
        let fits = |num_blocks: usize| self.blocks_alone(num_blocks * self.block_size) <= self.num_blocks();
        let (mut low, mut high) = (0, self.num_blocks() + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if fits(middle) { low = middle } else { high = middle }
        }
        low * self.block_size
    }

    /// Blocks that a sequence lacks until `len` tokens are computed.
    pub fn blocks_lacking(&self, kv: &SequenceKv, len: usize) -> usize {
        let lacking = |(table, &window): (&BlockTable, _)| {
            let peak = self.peak_blocks(window, len);
            peak.max(table.blocks().len()) - table.blocks().len()
        };
        kv.tables.iter().zip(&self.windows).map(lacking).sum()
    }

    /// Groups that never give a block back: as many blocks a running sequence may need at any step.
    pub fn num_growing_groups(&self) -> usize {
        self.windows.iter().filter(|window| window.is_none()).count()
    }

    /// How many tokens [`Self::admit`] would take from the prefix cache.
    pub fn hit_len(&mut self, query: &AdmissionQuery<'_>) -> usize {
        self.find_hit(query) * self.block_size
    }

    /// Starts a sequence with what the prefix cache has of it, if the pool can take all its tokens.
    /// Returns the blocks and the number of tokens that are computed already.
    pub fn admit(&mut self, query: &AdmissionQuery<'_>) -> Option<(SequenceKv, usize)> {
        if query.num_promised >= self.pool.num_free() {
            return None;
        }
        let hit_blocks = self.find_hit(query);
        let hit_len = hit_blocks * self.block_size;
        let tables: Vec<BlockTable> = (0..self.windows.len()).map(|group| self.hit_table(group, hit_len)).collect();
        let hits = || tables.iter().flat_map(|table| table.blocks().iter().copied());
        let num_held = hits().filter(|&id| self.pool.num_refs(id) > 0).count();
        if self.blocks_alone(query.tokens.len()) - num_held + query.num_promised > self.pool.num_free() {
            return None;
        }
        hits().for_each(|id| self.pool.share(id));
        Some((SequenceKv { tables, cursor: self.start_cursor(query.salt) }, hit_len))
    }

    /// Makes sure that the positions of `range` can be written: new blocks, and own copies of shared ones.
    /// All or nothing: false if the pool has too few.
    pub fn allocate(&mut self, kv: &mut SequenceKv, range: Range<usize>, copies: &mut Vec<BlockCopy>) -> bool {
        let num_needed = self.blocks_needed(kv, range.clone());
        if num_needed > self.pool.num_free() {
            return false;
        }
        if num_needed > 0 {
            let (first, end) = (range.start / self.block_size, range.end.div_ceil(self.block_size));
            for table in &mut kv.tables {
                self.unshare(table, first, copies);
                self.grow(table, end);
            }
        }
        true
    }

    /// Blocks that `allocate` takes at most for this range.
    pub fn blocks_needed(&self, kv: &SequenceKv, range: Range<usize>) -> usize {
        let (first, end) = (range.start / self.block_size, range.end.div_ceil(self.block_size));
        kv.tables.iter().map(|table| self.num_needed(table, first, end)).sum()
    }

    /// Forgets what blocks hold, when none is in use.
    pub fn forget_cached(&mut self) {
        assert_eq!(self.num_used_blocks(), 0, "blocks in use are forgotten");
        let num_blocks = self.num_blocks();
        self.pool = BlockPool::new(num_blocks, EXTENT_BLOCKS);
        if let Some(cache) = &mut self.prefix_cache {
            *cache = PrefixCache::new(num_blocks, self.block_size, self.windows.len());
        }
    }

    /// The blocks that are full after `num_computed` tokens become prefix hits for others.
    pub fn publish(&mut self, kv: &mut SequenceKv, tokens: &[TokenId], num_computed: usize) {
        let Some(prefix_cache) = &mut self.prefix_cache else { return };
        while let Some(Cursor { node, num_blocks }) = kv.cursor
            && (num_blocks + 1) * self.block_size <= num_computed
        {
            let label = &tokens[num_blocks * self.block_size..][..self.block_size];
            let child = prefix_cache.extend(node, label);
            kv.cursor = child.map(|node| Cursor { node, num_blocks: num_blocks + 1 });
            let Some(child) = child else { return };
            for (group, table) in kv.tables.iter().enumerate() {
                if let Some(block) = table.get(num_blocks)
                    && prefix_cache.attach(child, group, block)
                {
                    self.pool.set_cached(block, true);
                }
            }
        }
    }

    /// Gives back the blocks that no token after the first `num_computed` attends to.
    pub fn slide(&mut self, kv: &mut SequenceKv, num_computed: usize) {
        for (table, &window) in kv.tables.iter_mut().zip(&self.windows) {
            if window.is_some() {
                let first = first_block(window, num_computed, self.block_size);
                table.slide_to(first).for_each(|id| self.pool.release(id));
            }
        }
    }

    /// The same blocks once more, to be copied on write.
    pub fn fork(&mut self, parent: &SequenceKv) -> SequenceKv {
        let mut share = |table: &BlockTable| {
            table.blocks().iter().for_each(|&id| self.pool.share(id));
            BlockTable::new(table.first_block(), table.blocks().to_vec())
        };
        let tables = parent.tables.iter().map(&mut share).collect();
        if let (Some(prefix_cache), Some(cursor)) = (&mut self.prefix_cache, parent.cursor) {
            prefix_cache.retain(cursor.node);
        }
        SequenceKv { tables, cursor: parent.cursor }
    }

    /// Last blocks first, so that a cached prefix is reused from its end.
    pub fn free(&mut self, kv: SequenceKv) {
        for table in kv.tables {
            table.into_blocks().into_iter().rev().for_each(|id| self.pool.release(id));
        }
        if let (Some(prefix_cache), Some(cursor)) = (&mut self.prefix_cache, kv.cursor) {
            prefix_cache.release(cursor.node);
        }
    }

    /// Gives up the blocks of a sequence, whose contents go to host memory before the next step. Without room there, they are
    /// lost, and there is nothing to come back.
    pub fn swap_out(&mut self, kv: SequenceKv, swaps: &mut Vec<BlockSwap>) -> Option<SwappedKv> {
        let num_blocks: usize = kv.tables.iter().map(|table| table.blocks().len()).sum();
        let swapped = (num_blocks > 0 && num_blocks <= self.host.num_free()).then(|| {
            let mut swap = |&block: &BlockId| {
                let host = self.host.take();
                swaps.push(BlockSwap { block, host });
                host
            };
            let mut table = |table: &BlockTable| SwappedTable {
                first_block: table.first_block(),
                blocks: table.blocks().iter().map(&mut swap).collect(),
            };
            SwappedKv { tables: kv.tables.iter().map(&mut table).collect() }
        });
        self.free(kv);
        swapped
    }

    /// Brings a sequence back, whose blocks come from host memory before the next step, if the pool can take all its tokens.
    pub fn swap_in(
        &mut self,
        swapped: SwappedKv,
        query: &AdmissionQuery<'_>,
        swaps: &mut Vec<BlockSwap>,
    ) -> std::result::Result<SequenceKv, SwappedKv> {
        let num_needed = swapped.num_blocks().max(self.blocks_alone(query.tokens.len()));
        if num_needed + query.num_promised > self.pool.num_free() {
            return Err(swapped);
        }
        let mut tables = Vec::with_capacity(swapped.tables.len());
        for SwappedTable { first_block, blocks } in &swapped.tables {
            let mut table = BlockTable::new(*first_block, Vec::new());
            self.grow(&mut table, first_block + blocks.len());
            swaps.extend(table.blocks().iter().zip(blocks).map(|(&block, &host)| BlockSwap { block, host }));
            tables.push(table);
        }
        self.host.release(swapped);
        // What it publishes again from the start is there, or is missing there.
        self.path.clear();
        Ok(SequenceKv { tables, cursor: self.start_cursor(query.salt) })
    }

    /// The sequence has ended.
    pub fn free_swapped(&mut self, swapped: SwappedKv) {
        self.host.release(swapped);
    }

    pub fn check_host_invariants<'a>(&self, swapped: impl Iterator<Item = &'a SwappedKv>) {
        self.host.check_invariants(swapped);
    }

    /// Reference counts equal table entries, and the pool and the prefix cache agree.
    pub fn check_invariants<'a>(&self, running: impl Iterator<Item = &'a SequenceKv> + Clone) {
        self.pool.check_invariants();
        let mut num_refs = vec![0; self.num_blocks()];
        for id in running.clone().flat_map(|kv| &kv.tables).flat_map(BlockTable::blocks) {
            num_refs[id.index()] += 1;
        }
        for (index, num_refs) in num_refs.into_iter().enumerate() {
            let id = BlockId(index as u32);
            assert_eq!(self.pool.num_refs(id), num_refs, "block {id}: references differ from table entries");
            let is_owned = self.prefix_cache.as_ref().is_some_and(|cache| cache.is_owned(id));
            assert_eq!(self.pool.is_cached(id), is_owned, "block {id}: pool and prefix cache disagree");
        }
        if let Some(prefix_cache) = &self.prefix_cache {
            prefix_cache.check_invariants(running.filter_map(|kv| kv.cursor).map(|cursor| cursor.node));
        }
    }

    fn peak_blocks(&self, window: Option<usize>, len: usize) -> usize {
        let all = len.div_ceil(self.block_size);
        // A window of w positions that ends anywhere touches at most this many blocks.
        window.map_or(all, |window| all.min((window + self.block_size - 2) / self.block_size + 1))
    }

    /// Fills `path` with the longest usable prefix and returns its number of blocks: full groups need all
    /// of it, sliding groups what the next token attends to.
    fn find_hit(&mut self, query: &AdmissionQuery<'_>) -> usize {
        self.path.clear();
        let Some(cache) = &self.prefix_cache else { return 0 };
        let Some(mut node) = cache.root(query.salt) else { return 0 };
        let mut num_consecutive = vec![0; self.windows.len()];
        let mut num_hit = 0;
        for label in query.tokens[..query.max_hit_len].chunks_exact(self.block_size) {
            let Some(child) = cache.child(node, label) else { break };
            node = child;
            self.path.push(node);
            let len = self.path.len();
            for (group, count) in num_consecutive.iter_mut().enumerate() {
                *count = if cache.block(node, group).is_some() { *count + 1 } else { 0 };
            }
            let reaches_back = |(&count, &window): (&usize, _)| {
                count >= len - first_block(window, len * self.block_size, self.block_size)
            };
            if num_consecutive.iter().zip(&self.windows).all(reaches_back) {
                num_hit = len;
            }
        }
        self.path.truncate(num_hit);
        num_hit
    }

    fn hit_table(&self, group: usize, hit_len: usize) -> BlockTable {
        let first = first_block(self.windows[group], hit_len, self.block_size);
        let cached = |&node: &NodeId| {
            let cache = self.prefix_cache.as_ref().expect("a hit comes from the cache");
            cache.block(node, group).expect("the hit was checked for every group")
        };
        BlockTable::new(first, self.path[first..].iter().map(cached).collect())
    }

    fn start_cursor(&mut self, salt: &str) -> Option<Cursor> {
        let cache = self.prefix_cache.as_mut()?;
        let node = match self.path.last() {
            Some(&node) => {
                cache.retain(node);
                node
            }
            None => cache.retain_root(salt),
        };
        Some(Cursor { node, num_blocks: self.path.len() })
    }

    /// Blocks to take so that `first..end` of a table can be written.
    fn num_needed(&self, table: &BlockTable, first: usize, end: usize) -> usize {
        end.max(table.end_block()) - table.end_block() + self.shared_from(table, first).count()
    }

    fn shared_from<'a>(&'a self, table: &'a BlockTable, first: usize) -> impl Iterator<Item = usize> + 'a {
        (first..table.end_block()).filter(move |&index| {
            let block = table.get(index).expect("a written position is in the window");
            self.pool.num_refs(block) > 1
        })
    }

    fn unshare(&mut self, table: &mut BlockTable, first: usize, copies: &mut Vec<BlockCopy>) {
        for index in first..table.end_block() {
            let src = table.get(index).expect("a written position is in the window");
            if self.pool.num_refs(src) > 1 {
                let dst = self.take(None);
                copies.push(BlockCopy { src, dst });
                table.replace(index, dst);
                self.pool.release(src);
            }
        }
    }

    fn grow(&mut self, table: &mut BlockTable, end: usize) {
        let first_new = table.end_block();
        while table.end_block() < end {
            let near = table.blocks().last().copied();
            table.push(self.take(near));
        }
        table.sort_from(first_new);
    }

    /// A block with unknown contents; the caller has counted that there is one.
    fn take(&mut self, near: Option<BlockId>) -> BlockId {
        let id = self.pool.take(near).expect("the number of free blocks was checked");
        if self.pool.is_cached(id) {
            self.prefix_cache.as_mut().expect("cached blocks are in the cache").evict(id);
            self.pool.set_cached(id, false);
        }
        id
    }
}

/// The first block that a token at position `num_computed` attends to.
fn first_block(window: Option<usize>, num_computed: usize, block_size: usize) -> usize {
    // A token near the start sees all there is: its window reaches before position 0.
    window.map_or(0, |window| (num_computed + 1).saturating_sub(window) / block_size)
}
