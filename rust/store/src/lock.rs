//! One process at a time per model.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Held until it is dropped, or its process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// None: another process has it.
    pub fn try_take(folder: &Path) -> Result<Option<Self>> {
        let (path, file) = open(folder)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(err)) => Err(Error::io(&path, err)),
        }
    }

    /// Waits for the other process to end.
    pub fn wait(folder: &Path) -> Result<Self> {
        let (path, file) = open(folder)?;
        file.lock().map_err(|err| Error::io(&path, err))?;
        Ok(Self { _file: file })
    }
}

/// The lock file stands beside the model's folder and is never deleted: a deleted one would let two in.
fn open(folder: &Path) -> Result<(PathBuf, File)> {
    let mut path = folder.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|err| Error::io(parent, err))?;
    }
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    file.map(|file| (path.clone(), file)).map_err(|err| Error::io(&path, err))
}
