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

/// The CUDA kernels: each file's source, and the names of its kernels with the dynamic shared memory that they need.
#[pyfunction]
fn cuda_sources() -> Vec<(String, Vec<(&'static str, u32)>)> {
    let with_header =
        |text: &str, header: &str| text.replace("#include \"simt.cuh\"", &header.replace("#pragma once", ""));
    let sources = ferrule_engine::cuda::image::sources().into_iter();
    sources.map(|(source, text, header)| (with_header(text, header), source.kernels.to_vec())).collect()
}

/// Ferrule's Rust core; import `ferrule` instead.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(main, module)?)?;
    module.add_function(wrap_pyfunction!(cuda_sources, module)?)?;
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
