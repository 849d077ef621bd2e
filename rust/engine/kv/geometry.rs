//! How the KV memory is cut.

/// A set of layers that share one block table per sequence. Every group has the same number of
/// layer slots, so that one pool of equal blocks serves all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvGroup {
    /// Model layers, in order; at most `KvGeometry::layers_per_block` of them.
    pub layers: Vec<usize>,
    /// Positions that a token attends to, itself included. None: all.
    pub window: Option<usize>,
}

/// How the KV memory is cut.
///
/// A block holds `block_size` positions of `layers_per_block` layers: all layers of one group. A model
/// with full and sliding layers has several groups of equal size (the smaller kind's number of layers),
/// and a sequence has one block table per group. Sliding groups give blocks back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvGeometry {
    pub num_blocks: usize,
    /// Positions per block.
    pub block_size: usize,
    pub layers_per_block: usize,
    pub groups: Vec<KvGroup>,
    /// Blocks that host memory holds, of sequences that gave way to others. 0: these are computed again.
    pub num_host_blocks: usize,
}

impl KvGeometry {
    /// Groups the layers of a model by their windows (None: full attention), in order of first use.
    pub fn new(num_blocks: usize, block_size: usize, windows: &[Option<usize>]) -> Self {
        let mut kinds: Vec<KvGroup> = Vec::new();
        for (layer, &window) in windows.iter().enumerate() {
            match kinds.iter_mut().find(|kind| kind.window == window) {
                Some(kind) => kind.layers.push(layer),
                None => kinds.push(KvGroup { layers: vec![layer], window }),
            }
        }
        let layers_per_block = kinds.iter().map(|kind| kind.layers.len()).min().expect("a model has layers");
        let groups = kinds
            .iter()
            .flat_map(|kind| {
                kind.layers
                    .chunks(layers_per_block)
                    .map(|layers| KvGroup { layers: layers.to_vec(), window: kind.window })
            })
            .collect();
        Self { num_blocks, block_size, layers_per_block, groups, num_host_blocks: 0 }
    }
}
