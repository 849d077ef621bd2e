//! Shared libraries that are looked for at run time.

use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// An open library. It stays in the process, since the drivers that are opened with it cannot be unloaded.
#[derive(Debug)]
pub struct Library {
    handle: *mut c_void,
}

// SAFETY: `dlsym` may be called from any thread, and the handle is never closed.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// A file, or a name that the system's loader looks for. The error is the loader's sentence.
    pub fn open(name: &Path) -> Result<Self, String> {
        let name = CString::new(name.as_os_str().as_bytes()).map_err(|err| err.to_string())?;
        // SAFETY: the name ends with a zero. Constructors of the libraries that Ferrule opens are the system's own.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if !handle.is_null() {
            return Ok(Self { handle });
        }
        // SAFETY: after a failure on this thread, `dlerror` gives a string that lives until the next call.
        let reason = unsafe { libc::dlerror() };
        match reason.is_null() {
            true => Err("no reason given".into()),
            // SAFETY: not null, so a string that ends with a zero.
            false => Err(unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned()),
        }
    }

    pub fn symbol(&self, name: &str) -> Option<*mut c_void> {
        let name = CString::new(name).ok()?;
        // SAFETY: the library is open and the name ends with a zero.
        let symbol = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        (!symbol.is_null()).then_some(symbol)
    }
}

/// The folder of the executable, or of the Python extension, that this code is in.
pub fn own_folder() -> Option<PathBuf> {
    // SAFETY: an all-zero Dl_info is valid.
    let mut info: libc::Dl_info = unsafe { std::mem::zeroed() };
    // SAFETY: the address is one of this code, and `info` lives.
    let found = unsafe { libc::dladdr(own_folder as *const c_void, &mut info) };
    if found == 0 || info.dli_fname.is_null() {
        return None;
    }
    // SAFETY: `dladdr` found the object, whose name ends with a zero.
    let name = unsafe { CStr::from_ptr(info.dli_fname) };
    let file = Path::new(OsStr::from_bytes(name.to_bytes())).canonicalize();
    file.or_else(|_| std::env::current_exe()).ok()?.parent().map(Path::to_path_buf)
}

/// Where a library of NVIDIA's may lie: in the folders around this code, as `wheel` has it from site-packages on, and where the
/// system's loader looks.
pub fn places(name: &str, wheel: &str) -> Vec<PathBuf> {
    let own = own_folder();
    let around = own.iter().flat_map(|folder| folder.ancestors().take(3));
    let packages = around.map(|folder| folder.join(wheel).join(name)).filter(|path| path.exists());
    packages.chain([PathBuf::from(name)]).collect()
}

/// A symbol as a function.
///
/// # Safety
/// `F` is the type of the function at `symbol`.
pub unsafe fn function<F: Copy>(symbol: *mut c_void) -> F {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
    // SAFETY: the caller's promise, and the sizes are equal.
    unsafe { std::mem::transmute_copy(&symbol) }
}
