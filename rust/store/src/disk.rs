//! Room on the disk.

use std::path::Path;

use crate::error::{Error, Result};

/// Refuses a download that cannot fit.
pub fn require(folder: &Path, needed: u64) -> Result<()> {
    match free_bytes(folder) {
        Some(free) if free < needed => Err(Error::DiskFull { path: folder.into(), needed, free }),
        _ => Ok(()),
    }
}

/// Bytes that this user may still write where `folder` is. None: the system does not say.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: statvfs is plain integers, for which zero is a valid value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` ends in NUL and `stat` is writable for the length of the call.
    let status = unsafe { libc::statvfs(path.as_ptr(), &mut stat) };
    (status == 0).then(|| stat.f_bavail as u64 * stat.f_frsize as u64)
}

#[cfg(not(unix))]
fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_fit_is_refused_with_the_numbers() {
        let dir = tempfile::tempdir().unwrap();
        require(dir.path(), 1).unwrap();
        let refusal = require(dir.path(), u64::MAX).unwrap_err();
        assert!(matches!(refusal, Error::DiskFull { needed: u64::MAX, free, .. } if free > 0));
    }
}
