//! A device and this process's context on it.

use std::ffi::c_int;
use std::path::Path;
use std::sync::Arc;

use super::api::{Api, Handle};
use crate::error::{Error, Result};

// CUdevice_attribute.
const MULTIPROCESSORS: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

/// An open driver.
#[derive(Debug, Clone)]
pub struct Driver {
    api: Arc<Api>,
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    pub ordinal: usize,
    pub name: String,
    /// Compute capability: (9, 0) is sm_90.
    pub capability: (u32, u32),
    pub memory_bytes: u64,
    pub num_multiprocessors: usize,
}

impl Driver {
    /// The driver in a library: `libcuda.so.1`, or the emulator's.
    pub fn open(library: &Path) -> Result<Self> {
        Ok(Self { api: Arc::new(Api::open(library)?) })
    }

    /// The newest CUDA that the driver serves: (12, 4).
    pub fn version(&self) -> Result<(u32, u32)> {
        let mut version = 0;
        // SAFETY: the result lives.
        unsafe { self.api.driver_version(&mut version) }?;
        Ok((version as u32 / 1000, version as u32 % 1000 / 10))
    }

    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        let mut count = 0;
        // SAFETY: the result lives.
        unsafe { self.api.device_count(&mut count) }?;
        (0..count).map(|ordinal| self.device_info(ordinal)).collect()
    }

    fn device_info(&self, ordinal: c_int) -> Result<DeviceInfo> {
        let (mut device, mut bytes, mut name) = (0, 0, [0; 128]);
        // SAFETY: the results live, and `name` has the length that is given.
        unsafe {
            self.api.device(&mut device, ordinal)?;
            self.api.device_memory(&mut bytes, device)?;
            self.api.device_name(name.as_mut_ptr(), name.len() as c_int, device)?;
        }
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: the result lives.
            unsafe { self.api.device_attribute(&mut value, attribute, device) }.map(|()| value as u32)
        };
        let name: Vec<u8> = name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
        Ok(DeviceInfo {
            ordinal: ordinal as usize,
            name: String::from_utf8_lossy(&name).into_owned(),
            capability: (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?),
            memory_bytes: bytes as u64,
            num_multiprocessors: attribute(MULTIPROCESSORS)? as usize,
        })
    }

    /// The device's primary context, current on this thread.
    pub fn context(&self, ordinal: usize) -> Result<Arc<Context>> {
        let info = self.devices()?.into_iter().nth(ordinal).ok_or_else(|| {
            Error::Device(format!("the CUDA driver sees no device number {ordinal}; is one hidden or in use?"))
        })?;
        let (mut device, mut handle) = (0, std::ptr::null_mut());
        // SAFETY: the results live; `Context` releases what is retained.
        unsafe {
            self.api.device(&mut device, ordinal as c_int)?;
            self.api.context_retain(&mut handle, device)?;
        }
        let context = Arc::new(Context { api: self.api.clone(), handle, device, info });
        context.make_current()?;
        Ok(context)
    }
}

/// A device's primary context. Everything that is made in it keeps it alive.
#[derive(Debug)]
pub struct Context {
    api: Arc<Api>,
    handle: Handle,
    device: c_int,
    info: DeviceInfo,
}

// SAFETY: the driver may be called from any thread, and a context may be current on several.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn api(&self) -> &Api {
        &self.api
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Makes this thread's calls go to this context: allocations, copies and launches need it.
    pub fn make_current(&self) -> Result<()> {
        // SAFETY: the context is retained.
        unsafe { self.api.context_set(self.handle) }
    }

    /// Waits for all work, and reports an error of any of it.
    pub fn synchronize(&self) -> Result<()> {
        self.make_current()?;
        // SAFETY: the context is retained.
        unsafe { self.api.context_synchronize() }
    }

    /// Bytes of the device's memory that are free.
    pub fn free_bytes(&self) -> Result<u64> {
        self.make_current()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the results live.
        unsafe { self.api.memory_info(&mut free, &mut total) }?;
        Ok(free as u64)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once; whatever was made in it held a reference and is gone.
        if let Err(error) = unsafe { self.api.context_release(self.device) } {
            tracing::debug!("{error}");
        }
    }
}
