//! Which driver a device is reached through.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cublaslt::CublasLt;
use super::driver::{Context, Driver, own_folder};
use crate::config::{self, Device};
use crate::error::{Error, Result};

const DRIVER: &str = "libcuda.so.1";
const EMULATOR: &str = "libcuda_emu.so";
/// Where the emulator lies in the folders around this code: beside it when installed, in Cargo's target directory
/// where `make emu` builds it.
const EMULATOR_FOLDERS: [&str; 3] = ["", "cuda-emu", "target/cuda-emu"];

/// The driver of a device that is not the CPU.
pub fn open(device: Device) -> Result<Driver> {
    match device {
        Device::Cpu => Err(Error::Internal("the CPU has no driver".into())),
        Device::Cuda => Driver::open(Path::new(DRIVER)),
        Device::CudaEmu => Driver::open(&built_emulator()?),
    }
}

/// cuBLASLt for a device's context, or the emulator's: it has both APIs.
pub fn open_cublaslt(device: Device, driver: &Driver, context: &Arc<Context>) -> Result<CublasLt> {
    match device {
        Device::CudaEmu => CublasLt::open(context, &built_emulator()?),
        _ => CublasLt::find(context, driver.version()?.0),
    }
}

fn built_emulator() -> Result<PathBuf> {
    emulator().ok_or_else(|| {
        Error::Device(format!(
            "no emulated GPU: {EMULATOR} is not built; run `make emu`, or set FERRULE_CUDA_EMU to its path"
        ))
    })
}

/// The emulated driver's library, if there is one.
pub fn emulator() -> Option<PathBuf> {
    config::cuda_emulator().or_else(|| {
        let own = own_folder()?;
        let nearby = own.ancestors().take(4).flat_map(|folder| EMULATOR_FOLDERS.map(|place| folder.join(place)));
        nearby.map(|folder| folder.join(EMULATOR)).find(|library| library.exists())
    })
}
