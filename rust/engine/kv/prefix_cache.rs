//! Which prefix of tokens is in which blocks.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::hash::mix;
use crate::ids::{BlockId, TokenId};

/// A prefix: whole blocks of tokens after a salt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeId(u32);

impl NodeId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug, PartialEq)]
enum Parent {
    /// The empty prefix of a tenant.
    Salt(String),
    Node(NodeId),
}

#[derive(Debug)]
struct Node {
    parent: Parent,
    hash: u64,
    /// Children, cached blocks, and cursors of sequences.
    num_refs: u32,
}

/// A tree of prefixes. Each node adds one block of tokens to its parent, and knows the block that holds
/// their keys and values, for each KV group that still has one.
///
/// Nodes are found by a hash that is chained from the salt on, and are compared with the tokens and the
/// parent before they are believed: a collision costs a hit, never an answer. A node lives as long as
/// somebody needs it: a block, a child, or the cursor of a running sequence.
#[derive(Debug)]
pub struct PrefixCache {
    block_size: usize,
    num_groups: usize,
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    /// (num_nodes, block_size): the tokens that a node adds.
    labels: Vec<TokenId>,
    /// (num_nodes, num_groups)
    blocks: Vec<Option<BlockId>>,
    /// (num_blocks,): where a block is cached.
    owners: Vec<Option<(NodeId, usize)>>,
    roots: HashMap<String, NodeId>,
    by_hash: HashMap<u64, NodeId, BuildHasherDefault<AlreadyHashed>>,
    /// Bits of the hash in use; tests force collisions with fewer.
    hash_mask: u64,
}

impl PrefixCache {
    pub fn new(num_blocks: usize, block_size: usize, num_groups: usize) -> Self {
        Self {
            block_size,
            num_groups,
            nodes: Vec::new(),
            vacant: Vec::new(),
            labels: Vec::new(),
            blocks: Vec::new(),
            owners: vec![None; num_blocks],
            roots: HashMap::new(),
            by_hash: HashMap::default(),
            hash_mask: u64::MAX,
        }
    }

    pub fn root(&self, salt: &str) -> Option<NodeId> {
        self.roots.get(salt).copied()
    }

    /// The empty prefix of a tenant, with a reference for the caller.
    pub fn retain_root(&mut self, salt: &str) -> NodeId {
        let root = self.root(salt).unwrap_or_else(|| {
            let root = self.insert(Parent::Salt(salt.into()), hash_salt(salt));
            self.roots.insert(salt.into(), root);
            root
        });
        self.retain(root);
        root
    }

    /// `parent` and one block of tokens more.
    pub fn child(&self, parent: NodeId, label: &[TokenId]) -> Option<NodeId> {
        let id = *self.by_hash.get(&self.hash_child(parent, label))?;
        self.is_child(id, parent, label).then_some(id)
    }

    /// Trades the caller's reference to `parent` for one to its child, made if need be.
    /// None: another prefix has the same hash; this one cannot be cached.
    pub fn extend(&mut self, parent: NodeId, label: &[TokenId]) -> Option<NodeId> {
        let hash = self.hash_child(parent, label);
        let child = match self.by_hash.get(&hash) {
            Some(&id) => self.is_child(id, parent, label).then_some(id),
            None => Some(self.insert_child(parent, label, hash)),
        };
        if let Some(child) = child {
            self.retain(child);
        }
        self.release(parent);
        child
    }

    pub fn retain(&mut self, id: NodeId) {
        self.node_mut(id).num_refs += 1;
    }

    /// Drops a reference; nodes that nobody needs any more go, up to the root.
    pub fn release(&mut self, id: NodeId) {
        let mut at = id;
        loop {
            let node = self.node_mut(at);
            node.num_refs -= 1;
            if node.num_refs > 0 {
                return;
            }
            match self.remove(at) {
                Parent::Node(parent) => at = parent,
                Parent::Salt(salt) => {
                    self.roots.remove(&salt);
                    return;
                }
            }
        }
    }

    pub fn block(&self, id: NodeId, group: usize) -> Option<BlockId> {
        self.blocks[id.index() * self.num_groups + group]
    }

    pub fn is_owned(&self, block: BlockId) -> bool {
        self.owners[block.index()].is_some()
    }

    /// Notes that `block` holds this node's tokens. False: another block does already.
    pub fn attach(&mut self, id: NodeId, group: usize, block: BlockId) -> bool {
        let entry = &mut self.blocks[id.index() * self.num_groups + group];
        if entry.is_some() {
            return false;
        }
        *entry = Some(block);
        let owner = self.owners[block.index()].replace((id, group));
        assert!(owner.is_none(), "block {block} is cached for two prefixes");
        self.retain(id);
        true
    }

    /// Forgets a cached block, because it gets other contents.
    pub fn evict(&mut self, block: BlockId) {
        let (id, group) = self.owners[block.index()].take().expect("only cached blocks are evicted");
        self.blocks[id.index() * self.num_groups + group] = None;
        self.release(id);
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        self.nodes[id.index()].as_mut().expect("a node lives while it is referred to")
    }

    fn label(&self, id: NodeId) -> &[TokenId] {
        &self.labels[id.index() * self.block_size..][..self.block_size]
    }

    fn is_child(&self, id: NodeId, parent: NodeId, label: &[TokenId]) -> bool {
        self.nodes[id.index()].as_ref().is_some_and(|node| node.parent == Parent::Node(parent))
            && self.label(id) == label
    }

    fn hash_child(&self, parent: NodeId, label: &[TokenId]) -> u64 {
        let node = self.nodes[parent.index()].as_ref().expect("a node lives while it is referred to");
        label.iter().fold(node.hash, |hash, &token| mix(hash ^ u64::from(token))) & self.hash_mask
    }

    fn insert_child(&mut self, parent: NodeId, label: &[TokenId], hash: u64) -> NodeId {
        let id = self.insert(Parent::Node(parent), hash);
        self.labels[id.index() * self.block_size..][..self.block_size].copy_from_slice(label);
        self.by_hash.insert(hash, id);
        self.retain(parent);
        id
    }

    /// A node without references.
    fn insert(&mut self, parent: Parent, hash: u64) -> NodeId {
        let id = self.vacant.pop().unwrap_or_else(|| self.grow());
        self.nodes[id.index()] = Some(Node { parent, hash, num_refs: 0 });
        id
    }

    fn grow(&mut self) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("fewer than 2^32 prefixes"));
        self.nodes.push(None);
        self.labels.resize(self.labels.len() + self.block_size, 0);
        self.blocks.resize(self.blocks.len() + self.num_groups, None);
        id
    }

    fn remove(&mut self, id: NodeId) -> Parent {
        let node = self.nodes[id.index()].take().expect("a node lives while it is referred to");
        self.vacant.push(id);
        if matches!(node.parent, Parent::Node(_)) {
            self.by_hash.remove(&node.hash);
        }
        node.parent
    }

    /// `cursors` are the nodes that running sequences refer to.
    pub fn check_invariants(&self, cursors: impl Iterator<Item = NodeId>) {
        let mut num_refs = vec![0; self.nodes.len()];
        cursors.for_each(|id| num_refs[id.index()] += 1);
        for (index, block) in self.blocks.iter().enumerate() {
            if let Some(block) = block {
                let (node, group) = (index / self.num_groups, index % self.num_groups);
                assert_eq!(self.owners[block.index()], Some((NodeId(node as u32), group)));
                num_refs[node] += 1;
            }
        }
        for node in self.nodes.iter().flatten() {
            if let Parent::Node(parent) = node.parent {
                num_refs[parent.index()] += 1;
            }
        }
        for (index, num_refs) in num_refs.into_iter().enumerate() {
            let held = self.nodes[index].as_ref().map_or(0, |node| node.num_refs);
            assert_eq!(held, num_refs, "node {index}: references do not add up");
            assert!(held > 0 || self.nodes[index].is_none(), "node {index} lives for nobody");
        }
        let num_owned = self.owners.iter().flatten().count();
        assert_eq!(num_owned, self.blocks.iter().flatten().count());
        assert_eq!(self.nodes.iter().flatten().count(), self.by_hash.len() + self.roots.len());
    }
}

fn hash_salt(salt: &str) -> u64 {
    salt.bytes().fold(mix(salt.len() as u64), |hash, byte| mix(hash ^ u64::from(byte)))
}

/// Keys are hashes: they need no second hashing.
#[derive(Debug, Default)]
struct AlreadyHashed(u64);

impl Hasher for AlreadyHashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only u64 keys are hashed")
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Walks and caches a whole prompt in blocks of 2, one new block each; the nodes' references are the blocks'.
    fn publish(cache: &mut PrefixCache, salt: &str, tokens: &[TokenId], next_block: &mut u32) {
        let mut node = Some(cache.retain_root(salt));
        for label in tokens.chunks_exact(2) {
            node = node.and_then(|node| cache.extend(node, label));
            if let Some(node) = node {
                *next_block += u32::from(cache.attach(node, 0, BlockId(*next_block)));
            }
        }
        if let Some(node) = node {
            cache.release(node);
        }
    }

    fn find(cache: &PrefixCache, salt: &str, tokens: &[TokenId]) -> Vec<BlockId> {
        let mut at = cache.root(salt);
        let mut found = Vec::new();
        for label in tokens.chunks_exact(2) {
            at = at.and_then(|node| cache.child(node, label));
            found.extend(at.and_then(|node| cache.block(node, 0)));
        }
        found
    }

    #[test]
    fn tenants_do_not_see_each_other() {
        let mut cache = PrefixCache::new(8, 2, 1);
        publish(&mut cache, "a", &[1, 2, 3, 4], &mut 0);
        assert_eq!(find(&cache, "a", &[1, 2, 3, 4, 5]).len(), 2);
        assert!(find(&cache, "b", &[1, 2, 3, 4]).is_empty());
        assert!(find(&cache, "", &[1, 2, 3, 4]).is_empty());
    }

    #[test]
    fn an_evicted_middle_hides_nothing_and_the_last_eviction_leaves_nothing() {
        let mut cache = PrefixCache::new(8, 2, 1);
        publish(&mut cache, "", &[1, 2, 3, 4, 5, 6], &mut 0);
        cache.evict(BlockId(1));
        cache.check_invariants(std::iter::empty());
        assert_eq!(find(&cache, "", &[1, 2, 3, 4, 5, 6]), [BlockId(0), BlockId(2)]);
        cache.evict(BlockId(2));
        cache.evict(BlockId(0));
        cache.check_invariants(std::iter::empty());
        assert_eq!((cache.nodes.iter().flatten().count(), cache.roots.len()), (0, 0));
    }

    proptest! {
        /// With hashes of 0 to 3 bits nearly everything collides; what is found must still be the same tokens.
        #[test]
        fn a_hit_implies_equal_tokens(
            bits in 0u32..4,
            prompts in prop::collection::vec((0u8..2, prop::collection::vec(0u32..2, 0..10)), 1..12),
        ) {
            let mut cache = PrefixCache::new(64, 2, 1);
            cache.hash_mask = (1 << bits) - 1;
            let mut contents: Vec<(u8, Vec<TokenId>)> = Vec::new();
            for (tenant, tokens) in &prompts {
                let (salt, mut next) = (tenant.to_string(), contents.len() as u32);
                publish(&mut cache, &salt, tokens, &mut next);
                for (i, _) in tokens.chunks_exact(2).enumerate() {
                    let prefix = &tokens[..2 * (i + 1)];
                    let found = find(&cache, &salt, prefix);
                    if found.last().is_some_and(|block| block.index() >= contents.len()) {
                        contents.push((*tenant, prefix[..2 * found.len()].to_vec()));
                    }
                }
                prop_assert_eq!(contents.len(), next as usize);
                cache.check_invariants(std::iter::empty());
            }
            for (tenant, tokens) in &prompts {
                for (i, block) in find(&cache, &tenant.to_string(), tokens).iter().enumerate() {
                    prop_assert_eq!(&contents[block.index()], &(*tenant, tokens[..2 * (i + 1)].to_vec()));
                }
            }
        }
    }
}
