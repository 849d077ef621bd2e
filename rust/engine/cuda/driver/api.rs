//! The functions of the CUDA driver API that Ferrule calls, found by name at run time.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::Path;

use super::library::Library;
use crate::error::{Error, Result};

pub type Code = c_int;
/// A context, stream, event, module, function or graph.
pub type Handle = *mut c_void;
/// An address in a device's memory.
pub type DevicePtr = u64;

/// CUDA_ERROR_OUT_OF_MEMORY.
const OUT_OF_MEMORY: Code = 2;

type ParamInfo = unsafe extern "C" fn(Handle, usize, *mut usize, *mut usize) -> Code;
type ErrorText = unsafe extern "C" fn(Code, *mut *const c_char) -> Code;

/// A table of functions, and for each a method that turns its code into an error with the function's name.
macro_rules! api {
    ($($method:ident = $symbol:ident($($arg:ident: $type:ty),*);)+) => {
        /// The driver's functions. A method's arguments are those of the function that it is named after; it is unsafe
        /// for the reasons that the driver's manual gives: handles must be alive and pointers valid.
        #[derive(Debug)]
        pub struct Api {
            $($method: unsafe extern "C" fn($($type),*) -> Code,)+
            error_name: ErrorText,
            error_string: ErrorText,
            /// Since CUDA 12.4.
            param_info: Option<ParamInfo>,
        }

        impl Api {
            /// The table, or the names of the functions that the library lacks.
            fn find(library: &Library) -> Result<Self, Vec<&'static str>> {
                let mut missing = Vec::new();
                $(let $method = lookup(library, stringify!($symbol), &mut missing);)+
                let error_name = lookup(library, "cuGetErrorName", &mut missing);
                let error_string = lookup(library, "cuGetErrorString", &mut missing);
                if !missing.is_empty() {
                    return Err(missing);
                }
                let param_info = library.symbol("cuFuncGetParamInfo");
                // SAFETY: these are the functions' types in the driver's manual, and none is null: none is missing.
                Ok(unsafe {
                    Self {
                        $($method: std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) -> Code>($method),)+
                        error_name: std::mem::transmute::<*mut c_void, ErrorText>(error_name),
                        error_string: std::mem::transmute::<*mut c_void, ErrorText>(error_string),
                        param_info: param_info.map(|symbol| std::mem::transmute::<*mut c_void, ParamInfo>(symbol)),
                    }
                })
            }

            $(
                #[allow(clippy::too_many_arguments, reason = "the driver's own signature")]
                pub unsafe fn $method(&self, $($arg: $type),*) -> Result<()> {
                    // SAFETY: the caller's promise.
                    self.check(stringify!($symbol), unsafe { (self.$method)($($arg),*) })
                }
            )+
        }
    };
}

api! {
    init = cuInit(flags: c_uint);
    driver_version = cuDriverGetVersion(version: *mut c_int);
    device_count = cuDeviceGetCount(count: *mut c_int);
    device = cuDeviceGet(device: *mut c_int, ordinal: c_int);
    device_name = cuDeviceGetName(name: *mut c_char, len: c_int, device: c_int);
    device_attribute = cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, device: c_int);
    device_memory = cuDeviceTotalMem_v2(bytes: *mut usize, device: c_int);
    context_retain = cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int);
    context_release = cuDevicePrimaryCtxRelease_v2(device: c_int);
    context_set = cuCtxSetCurrent(context: Handle);
    context_synchronize = cuCtxSynchronize();
    memory_info = cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    allocate = cuMemAlloc_v2(address: *mut DevicePtr, bytes: usize);
    free = cuMemFree_v2(address: DevicePtr);
    allocate_host = cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, flags: c_uint);
    free_host = cuMemFreeHost(pointer: *mut c_void);
    copy_to_device = cuMemcpyHtoD_v2(to: DevicePtr, from: *const c_void, bytes: usize);
    copy_to_host = cuMemcpyDtoH_v2(to: *mut c_void, from: DevicePtr, bytes: usize);
    copy_to_device_async = cuMemcpyHtoDAsync_v2(to: DevicePtr, from: *const c_void, bytes: usize, stream: Handle);
    copy_to_host_async = cuMemcpyDtoHAsync_v2(to: *mut c_void, from: DevicePtr, bytes: usize, stream: Handle);
    module_load = cuModuleLoadData(module: *mut Handle, image: *const c_void);
    module_unload = cuModuleUnload(module: Handle);
    module_function = cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char);
    function_set = cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int);
    launch = cuLaunchKernel(
        function: Handle, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared_bytes: c_uint, stream: Handle, params: *mut *mut c_void, extra: *mut *mut c_void
    );
    stream_create = cuStreamCreate(stream: *mut Handle, flags: c_uint);
    stream_destroy = cuStreamDestroy_v2(stream: Handle);
    stream_synchronize = cuStreamSynchronize(stream: Handle);
    stream_wait = cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint);
    event_create = cuEventCreate(event: *mut Handle, flags: c_uint);
    event_destroy = cuEventDestroy_v2(event: Handle);
    event_record = cuEventRecord(event: Handle, stream: Handle);
    event_synchronize = cuEventSynchronize(event: Handle);
    capture_begin = cuStreamBeginCapture_v2(stream: Handle, mode: c_int);
    capture_end = cuStreamEndCapture(stream: Handle, graph: *mut Handle);
    graph_instantiate = cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, flags: u64);
    graph_launch = cuGraphLaunch(executable: Handle, stream: Handle);
    graph_destroy = cuGraphDestroy(graph: Handle);
    graph_exec_destroy = cuGraphExecDestroy(executable: Handle);
}

fn lookup(library: &Library, name: &'static str, missing: &mut Vec<&'static str>) -> *mut c_void {
    library.symbol(name).unwrap_or_else(|| {
        missing.push(name);
        std::ptr::null_mut()
    })
}

impl Api {
    /// The driver in `library`, initialized.
    pub fn open(library: &Path) -> Result<Self> {
        let name = library.display();
        let opened = Library::open(library).map_err(|reason| {
            Error::Device(format!("no CUDA driver: {name} cannot be opened ({reason}); install NVIDIA's driver"))
        })?;
        let api = Self::find(&opened).map_err(|missing| {
            Error::Device(format!(
                "{name} is too old: it lacks {}; a driver for CUDA 12.0 or later (version 525) is needed",
                missing.join(", ")
            ))
        })?;
        // SAFETY: 0 is the only flag there is.
        unsafe { api.init(0) }?;
        Ok(api)
    }

    /// Bytes of the function's parameter `index`; None where the driver does not tell, or there are fewer.
    ///
    /// # Safety
    /// `function` is alive.
    pub unsafe fn param_bytes(&self, function: Handle, index: usize) -> Option<usize> {
        let (mut offset, mut bytes) = (0, 0);
        // SAFETY: the caller's promise; both results live.
        let code = unsafe { self.param_info?(function, index, &mut offset, &mut bytes) };
        (code == 0).then_some(bytes)
    }

    /// Whether `param_bytes` tells.
    pub fn knows_params(&self) -> bool {
        self.param_info.is_some()
    }

    fn check(&self, call: &str, code: Code) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let (name, text) = (self.text(self.error_name, code), self.text(self.error_string, code));
        let message = format!("{call}: {name} ({code}): {text}");
        Err(if code == OUT_OF_MEMORY { Error::OutOfMemory(message) } else { Error::Device(message) })
    }

    fn text(&self, function: ErrorText, code: Code) -> String {
        let mut text = std::ptr::null();
        // SAFETY: both functions of this type take any code.
        let found = unsafe { function(code, &mut text) };
        if found != 0 || text.is_null() {
            return "unknown".into();
        }
        // SAFETY: the driver's strings end with a zero and live as long as the driver.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().trim_end().to_owned()
    }
}
