//! NVIDIA GPUs, and an emulated one that proves the same code without any.
//!
//! `driver` binds the CUDA driver API. `launch` has one type per kernel of cuda/, with its shapes and its grid. `step`
//! says what changes from step to step, `arrays` brings it to the device or has it advance there, `backend` turns the
//! decoder's operations into launches, `graph` keeps decode steps recorded, and `sampler` has tokens chosen there.
//! `cublaslt` makes products where it is asked to. An emulated GPU is another library with the same API: only `load` knows
//! it. Real GPUs get their kernels from `nvrtc`, at the first start; `image` keeps them.

pub mod arrays;
pub mod backend;
pub mod cublaslt;
pub mod driver;
pub mod graph;
pub mod heads;
pub mod image;
pub mod launch;
mod load;
pub mod matrix;
pub mod memory;
pub mod nvrtc;
mod open;
pub mod sampler;
pub mod step;
pub mod weights;

pub(crate) use load::load;
pub use open::{emulator, open, open_cublaslt};
