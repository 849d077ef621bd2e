//! The GPU's code on an emulated device, which `make emu` builds, or on the device that FERRULE_TEST_DEVICE names.

#[allow(dead_code)]
#[path = "../containers/mod.rs"]
mod containers;
mod cublaslt;
mod driver;
mod float16;
mod models;
mod nvrtc;
mod products;
mod sampler;
#[allow(dead_code)]
#[path = "../twin/mod.rs"]
mod twin;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrule_engine::config::Device;
use ferrule_engine::cuda;

/// The emulator is one device in this process: tests take turns, so that none drains another's streams.
static TURN: Mutex<()> = Mutex::new(());

/// What models run on.
fn device() -> Device {
    match std::env::var("FERRULE_TEST_DEVICE") {
        Ok(name) => name.parse().expect("FERRULE_TEST_DEVICE names a device"),
        Err(_) => Device::CudaEmu,
    }
}

/// The device of models for one test, if it is there.
fn tested_device() -> Option<MutexGuard<'static, ()>> {
    match device() {
        Device::Cuda => Some(TURN.lock().unwrap_or_else(PoisonError::into_inner)),
        _ => emulated_device(),
    }
}

/// The emulated device for one test, if it is built.
fn emulated_device() -> Option<MutexGuard<'static, ()>> {
    if cuda::emulator().is_none() {
        println!("skipped: the emulated GPU is not built (make emu)");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}
