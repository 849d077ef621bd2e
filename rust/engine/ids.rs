//! Newtypes, so that a block is never taken for a sequence.

/// A token of the model's vocabulary.
pub type TokenId = u32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One request; unique for the life of the engine.
    RequestId(u64)
);
id!(
    /// One sequence: a request with `n` choices has `n` of them.
    SequenceId(u64)
);
id!(
    /// A physical KV block. An index into the pool.
    BlockId(u32)
);

id!(
    /// Room for a block in host memory. An index into that.
    HostBlockId(u32)
);

/// Blocks of one layer that lie side by side on a CPU, counted from block 0: long enough for streaming reads, short enough
/// that a short context touches little memory.
pub const EXTENT_BLOCKS: usize = 16;

impl BlockId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl HostBlockId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
