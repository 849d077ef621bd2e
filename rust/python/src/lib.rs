//! The border between Python and the engine: convert, release the GIL, call, convert back.

mod async_batch;
mod async_stream;
mod batch;
mod bridge;
mod config;
mod engine;
mod errors;
mod field;
mod models;
mod outputs;
mod params;
mod prompts;
mod quantize;
mod stream;
mod testing;
mod wait;

use std::ffi::OsString;

use pyo3::prelude::*;

/// The `ferrule` command; `args` begins with the program's name. Returns the exit code.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<OsString>) -> i32 {
    py.detach(|| ferrule_server::main(args))
}

/// Ferrule's Rust core; import `ferrule` instead.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(quantize::quantize, module)?)?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<params::SamplingParams>()?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<async_stream::AsyncStream>()?;
    module.add_class::<outputs::RequestOutput>()?;
    module.add_class::<outputs::CompletionOutput>()?;
    module.add_class::<outputs::Delta>()?;
    module.add_class::<outputs::TokenLogprob>()?;
    module.add_class::<outputs::RequestMetrics>()?;
    module.add_class::<outputs::EngineStats>()?;
    module.add_class::<outputs::ModelInfo>()?;
    module.add_class::<testing::SchedulerHarness>()
}
