//! The paged KV cache: who owns which block. The numbers inside blocks belong to the model runner.

mod block_manager;
mod block_pool;
mod block_table;
mod geometry;
mod host_pool;
mod prefix_cache;

pub use block_manager::{AdmissionQuery, BlockManager, SequenceKv};
pub use block_pool::{BlockPool, BlockState};
pub use block_table::BlockTable;
pub use geometry::{KvGeometry, KvGroup};
pub use host_pool::{HostPool, SwappedKv};
pub use prefix_cache::PrefixCache;
