//! NVIDIA's run-time compiler, opened when kernels have to be compiled.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;

use super::driver::{Library, function, places};
use crate::error::{Error, Result};

type Code = c_int;
type Program = *mut c_void;

/// Where a library of some major version may lie: for the system's loader, and from site-packages on as NVIDIA's wheels
/// have it.
const LIBRARIES: [(u32, &str, &str); 2] =
    [(13, "libnvrtc.so.13", "nvidia/cu13/lib"), (12, "libnvrtc.so.12", "nvidia/cuda_nvrtc/lib")];

const STANDARD: &str = "--std=c++17";

/// The compiler's functions, with the types of its manual.
#[derive(Debug)]
pub struct Nvrtc {
    version: (u32, u32),
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> Code,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Code,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> Code,
    log: unsafe extern "C" fn(Program, *mut c_char) -> Code,
    cubin_size: unsafe extern "C" fn(Program, *mut usize) -> Code,
    cubin: unsafe extern "C" fn(Program, *mut c_char) -> Code,
    destroy: unsafe extern "C" fn(*mut Program) -> Code,
    error: unsafe extern "C" fn(Code) -> *const c_char,
}

impl Nvrtc {
    /// The newest compiler that makes code for a driver of CUDA `most_major`: a driver runs no code of a later one.
    pub fn find(most_major: u32) -> Result<Self> {
        let suitable = LIBRARIES.iter().filter(|&&(major, ..)| major <= most_major);
        let opened = suitable.flat_map(|&(_, name, wheel)| places(name, wheel)).find_map(|path| Self::open(&path).ok());
        opened.ok_or_else(|| {
            Error::Device(format!(
                "kernels must be compiled for this GPU, and NVRTC for CUDA {most_major} or earlier was not found: pip \
                 install nvidia-cuda-nvrtc (CUDA 13) or nvidia-cuda-nvrtc-cu12, or install the CUDA toolkit"
            ))
        })
    }

    /// The compiler in a library.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |reason: String| Error::Device(format!("{}: {reason}", path.display()));
        let library = Library::open(path).map_err(failed)?;
        let symbol = |name: &str| library.symbol(name).ok_or_else(|| failed(format!("{name} is missing")));
        let version = symbol("nvrtcVersion")?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: this is the function's type in the manual, and the results live.
        unsafe {
            function::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> Code>(version)(&mut major, &mut minor);
        }
        let [create, compile, log_size, log] =
            ["nvrtcCreateProgram", "nvrtcCompileProgram", "nvrtcGetProgramLogSize", "nvrtcGetProgramLog"].map(symbol);
        let [cubin_size, cubin, destroy, error] =
            ["nvrtcGetCUBINSize", "nvrtcGetCUBIN", "nvrtcDestroyProgram", "nvrtcGetErrorString"].map(symbol);
        // SAFETY: these are the functions' types in the manual, and none is null.
        Ok(unsafe {
            Self {
                version: (major as u32, minor as u32),
                create: function(create?),
                compile: function(compile?),
                log_size: function(log_size?),
                log: function(log?),
                cubin_size: function(cubin_size?),
                cubin: function(cubin?),
                destroy: function(destroy?),
                error: function(error?),
            }
        })
    }

    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// A cubin of `source` for a compute capability. `headers` are the names and texts that it may include.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(&str, &str)],
        capability: (u32, u32),
    ) -> Result<Vec<u8>> {
        let text = |text: &str| CString::new(text).expect("sources have no zeros");
        let (source, c_name) = (text(source), text(name));
        let (names, texts): (Vec<CString>, Vec<CString>) =
            headers.iter().map(|&(name, header)| (text(name), text(header))).unzip();
        let [names, texts] = [&names, &texts].map(|list| list.iter().map(|text| text.as_ptr()).collect::<Vec<_>>());
        let mut handle = std::ptr::null_mut();
        let count = headers.len() as c_int;
        // SAFETY: all strings end with a zero and live; both lists have `count` entries.
        self.check(name, unsafe {
            (self.create)(&mut handle, source.as_ptr(), c_name.as_ptr(), count, texts.as_ptr(), names.as_ptr())
        })?;
        let compiled = self.compile_program(name, handle, capability);
        // SAFETY: made above, and not used any more.
        self.check(name, unsafe { (self.destroy)(&mut handle) })?;
        compiled
    }

    fn compile_program(&self, name: &str, program: Program, (major, minor): (u32, u32)) -> Result<Vec<u8>> {
        let arch = format!("--gpu-architecture=sm_{major}{minor}");
        let options = [STANDARD, &arch].map(|option| CString::new(option).expect("options have no zeros"));
        let pointers = options.each_ref().map(|option| option.as_ptr());
        // SAFETY: the program is alive, and so are the options.
        let code = unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        if let Err(error) = self.check(name, code) {
            let log = self.bytes(name, program, self.log_size, self.log)?;
            return Err(Error::Device(format!("{error}\n{}", String::from_utf8_lossy(&log).trim_end_matches('\0'))));
        }
        self.bytes(name, program, self.cubin_size, self.cubin)
    }

    fn bytes(
        &self,
        name: &str,
        program: Program,
        size: unsafe extern "C" fn(Program, *mut usize) -> Code,
        get: unsafe extern "C" fn(Program, *mut c_char) -> Code,
    ) -> Result<Vec<u8>> {
        let mut len = 0;
        // SAFETY: the program is alive and the result lives.
        self.check(name, unsafe { size(program, &mut len) })?;
        let mut bytes = vec![0_u8; len];
        // SAFETY: as above, and `get` writes the bytes that `size` told.
        self.check(name, unsafe { get(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn check(&self, name: &str, code: Code) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the compiler's strings end with a zero and live as long as it.
        let text = unsafe { CStr::from_ptr((self.error)(code)) }.to_string_lossy();
        Err(Error::Device(format!("compiling the kernels of {name}: {text}")))
    }
}
