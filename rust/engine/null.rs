//! A model without weights that drives the real engine: tokens follow from a hash of the prefix.

use std::time::Duration;

use crate::error::Result;
use crate::kv::KvGeometry;
use crate::runner::{ModelOutput, ModelRunner};
use crate::sched::SchedulerOutput;

/// Time that a step takes: the model stands in for a device in scheduler benchmarks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NullCost {
    /// Per step.
    pub fixed: Duration,
    /// Per computed token.
    pub per_token: Duration,
    /// Per token of context that a scheduled sequence reads.
    pub per_context_token: Duration,
}

#[derive(Debug, Clone)]
pub struct NullConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_blocks: usize,
    pub block_size: usize,
    /// One per layer: positions that a token attends to. None: all.
    pub windows: Vec<Option<usize>>,
    /// None: as fast as it goes.
    pub cost: Option<NullCost>,
}

impl Default for NullConfig {
    fn default() -> Self {
        Self { vocab_size: 64, hidden_size: 8, num_blocks: 1024, block_size: 16, windows: vec![None], cost: None }
    }
}

pub struct NullModel {
    config: NullConfig,
    geometry: KvGeometry,
}

impl NullModel {
    pub fn new(config: NullConfig) -> Self {
        let geometry = KvGeometry::new(config.num_blocks, config.block_size, &config.windows);
        Self { config, geometry }
    }
}

impl ModelRunner for NullModel {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn hidden_size(&self) -> usize {
        self.config.hidden_size
    }

    fn kv_geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    fn execute(&mut self, _step: &SchedulerOutput, _out: &mut ModelOutput) -> Result<()> {
        todo!()
    }
}
