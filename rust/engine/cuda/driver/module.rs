//! Compiled kernels and their launch.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use super::api::{DevicePtr, Handle};
use super::{Context, DeviceSlice, Stream};
use crate::error::{Error, Result};

/// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.
const MAX_DYNAMIC_SHARED: i32 = 8;
/// What a kernel may have without asking.
const DEFAULT_SHARED: u32 = 48 << 10;

/// Loaded code.
#[derive(Debug)]
pub struct Module {
    context: Arc<Context>,
    handle: Handle,
}

// SAFETY: the driver may be called from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel of a module.
#[derive(Debug)]
pub struct Kernel {
    module: Arc<Module>,
    name: &'static str,
    handle: Handle,
    /// Bytes of each parameter. None: the driver does not tell.
    params: Option<Vec<usize>>,
}

// SAFETY: the driver may be called from any thread.
unsafe impl Send for Kernel {}
// SAFETY: as above.
unsafe impl Sync for Kernel {}

/// A kernel's argument.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    Pointer(DevicePtr),
    I32(i32),
    I64(i64),
    F32(f32),
}

impl<T> From<DeviceSlice<'_, T>> for Arg {
    fn from(slice: DeviceSlice<'_, T>) -> Self {
        Self::Pointer(slice.address())
    }
}

/// None is a null pointer.
impl<T> From<Option<DeviceSlice<'_, T>>> for Arg {
    fn from(slice: Option<DeviceSlice<'_, T>>) -> Self {
        Self::Pointer(slice.map_or(0, |slice| slice.address()))
    }
}

impl From<usize> for Arg {
    fn from(value: usize) -> Self {
        Self::I32(i32::try_from(value).expect("sizes that kernels take fit in 31 bits"))
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Self {
        Self::F32(value)
    }
}

impl Arg {
    fn num_bytes(&self) -> usize {
        match self {
            Self::Pointer(_) | Self::I64(_) => 8,
            Self::I32(_) | Self::F32(_) => 4,
        }
    }

    fn as_ptr(&self) -> *const c_void {
        match self {
            Self::Pointer(value) => std::ptr::from_ref(value).cast(),
            Self::I32(value) => std::ptr::from_ref(value).cast(),
            Self::I64(value) => std::ptr::from_ref(value).cast(),
            Self::F32(value) => std::ptr::from_ref(value).cast(),
        }
    }
}

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

/// Most parameters of a kernel.
const MAX_ARGS: usize = 16;

impl Module {
    /// From a cubin; the emulator takes anything, since it has its kernels.
    pub fn load(context: &Arc<Context>, image: &[u8]) -> Result<Arc<Self>> {
        context.make_current()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: an image is an ELF file that says its own length; the result lives.
        unsafe { context.api().module_load(&mut handle, image.as_ptr().cast()) }?;
        Ok(Arc::new(Self { context: context.clone(), handle }))
    }

    /// A kernel that may be launched with `shared_bytes` of dynamic shared memory.
    pub fn kernel(self: &Arc<Self>, name: &'static str, shared_bytes: u32) -> Result<Kernel> {
        let api = self.context.api();
        let c_name = CString::new(name).expect("names of kernels have no zeros");
        let mut handle = std::ptr::null_mut();
        // SAFETY: the module is loaded, the name ends with a zero, and the result lives.
        unsafe { api.module_function(&mut handle, self.handle, c_name.as_ptr()) }
            .map_err(|err| Error::Device(format!("kernel {name}: {err}")))?;
        if shared_bytes > DEFAULT_SHARED {
            // SAFETY: the function was just found.
            unsafe { api.function_set(handle, MAX_DYNAMIC_SHARED, shared_bytes as i32) }.map_err(|err| {
                Error::Device(format!("kernel {name} needs {shared_bytes} B of shared memory: {err}"))
            })?;
        }
        let params = api.knows_params().then(|| {
            // SAFETY: the function was just found.
            (0..).map_while(|index| unsafe { api.param_bytes(handle, index) }).collect()
        });
        Ok(Kernel { module: self.clone(), name, handle, params })
    }
}

impl Kernel {
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Puts the kernel in the stream.
    ///
    /// # Safety
    /// The pointers among the arguments are what the kernel expects in their places, and reach as far as it goes with
    /// these arguments and this shape.
    pub unsafe fn launch(&self, stream: &Stream, shape: &LaunchShape, args: &[Arg]) -> Result<()> {
        self.check(args);
        let mut pointers = [std::ptr::null_mut(); MAX_ARGS];
        for (pointer, arg) in pointers.iter_mut().zip(args) {
            *pointer = arg.as_ptr().cast_mut();
        }
        let &LaunchShape { grid: [x, y, z], block, shared_bytes } = shape;
        let api = self.module.context.api();
        let (params, no_extra) = (pointers.as_mut_ptr(), std::ptr::null_mut());
        // SAFETY: the kernel and the stream are alive, and the arguments, which the driver copies, have the sizes that
        // the kernel says; the caller promises the rest.
        unsafe { api.launch(self.handle, x, y, z, block, 1, 1, shared_bytes, stream.handle(), params, no_extra) }
            .map_err(|err| Error::Device(format!("kernel {}: {err}", self.name)))
    }

    fn check(&self, args: &[Arg]) {
        assert!(args.len() <= MAX_ARGS, "{} arguments for {}", args.len(), self.name);
        if let Some(params) = &self.params {
            let fits = args.iter().map(Arg::num_bytes).eq(params.iter().copied());
            assert!(fits, "{} has parameters of {params:?} bytes, not {args:?}", self.name);
        }
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded once; its kernels held references and are gone.
        let unloaded =
            self.context.make_current().and_then(|()| unsafe { self.context.api().module_unload(self.handle) });
        if let Err(error) = unloaded {
            tracing::debug!("{error}");
        }
    }
}
