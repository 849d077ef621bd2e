//! The GPU's code on an emulated device, which `make emu` builds.

mod driver;
mod models;

use ferrule_engine::cuda;

/// Whether the emulated device is built.
fn is_emulated() -> bool {
    let found = cuda::emulator().is_some();
    if !found {
        println!("skipped: the emulated GPU is not built (make emu)");
    }
    found
}
