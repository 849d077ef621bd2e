//! CPU kernels in three tiers. `scalar` is the specification; the tier is chosen once, at start.
//!
//! Every kernel accumulates an output element in one fixed order within a tier, whatever the number of
//! rows, the tile, the range of panels or the lane: results do not depend on company.

mod attention;
mod elementwise;
mod matmul;
pub mod threads;

pub use attention::{AttentionTask, KvLayer, KvShape};
pub use matmul::{MatMut, QuantizedRows};

use crate::config::Isa;
use crate::error::Result;

/// The kernels of one tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    /// The best tier of this machine, or the one asked for; refused if the machine lacks it.
    pub fn new(_wanted: Option<Isa>) -> Result<Self> {
        todo!()
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }
}
