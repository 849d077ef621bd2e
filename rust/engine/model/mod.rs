//! Models as data: one configuration, one registry of families, one decoder.

mod checks;
mod config;
mod cost;
mod decoder;
pub(crate) mod families;
mod fields;
mod gguf_config;
mod hf_config;
mod hf_rope;
mod names;
mod registry;
mod role;
mod rope;

pub use config::{Activation, ExpertsConfig, LayerConfig, ModelConfig, RopeConfig, RopeScaling};
pub use decoder::{DecoderWeights, Experts, FeedForward, LayerWeights, forward, forward_layer};
pub(crate) use registry::roles;
pub use registry::{Source, TensorPart, open, open_as};
pub use role::Role;
pub use rope::RopeTable;
