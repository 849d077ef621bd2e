//! What is written: a folder that Transformers and vLLM load, and Ferrule.

mod config;
mod folder;
mod layer;
pub(super) mod packing;
mod tensor;

pub use config::config;
pub use folder::{assemble, num_bytes, write_index, write_texts};
pub use layer::{ends, layer};
pub use tensor::{OutTensor, write};
