//! The GPU's code on an emulated device, which `make emu` builds.

mod driver;
mod models;
mod nvrtc;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ferrule_engine::cuda;

/// The emulator is one device in this process: tests take turns, so that none drains another's streams.
static TURN: Mutex<()> = Mutex::new(());

/// The emulated device for one test, if it is built.
fn emulated_device() -> Option<MutexGuard<'static, ()>> {
    if cuda::emulator().is_none() {
        println!("skipped: the emulated GPU is not built (make emu)");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}
