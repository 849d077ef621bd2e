//! Models as data: one configuration, one registry of families, one decoder.

mod config;
mod registry;
mod rope;

pub use config::{Activation, LayerConfig, ModelConfig, RopeConfig, RopeScaling};
pub use registry::{Role, Source, TensorPart, open};
pub use rope::RopeTable;
