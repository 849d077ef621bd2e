//! The CUDA driver API, opened at run time: nothing of CUDA is needed to build, and nothing to start without a GPU.
//!
//! All `unsafe` of the binding is in this folder. Handles are owned and keep their context alive; host memory that the
//! device uses meanwhile is waited for before Rust looks at it; device memory is never looked at, only copied.

mod api;
mod context;
mod library;
mod memory;
mod module;
mod stream;

pub use context::{Context, DeviceInfo, Driver};
pub use library::{Library, own_folder};
pub(in crate::cuda) use library::{function, places};
pub use memory::{DeviceBuffer, DeviceNumber, DeviceSlice, PinnedBuffer};
pub use module::{Arg, Kernel, LaunchShape, Module};
pub use stream::{Event, Graph, Stream};
