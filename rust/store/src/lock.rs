//! One process at a time per model.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

const LOOK_EVERY: Duration = Duration::from_millis(50);

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

    /// Waits for the other process to end. None: `gives_up` before that.
    pub fn wait(folder: &Path, mut gives_up: impl FnMut() -> bool) -> Result<Option<Self>> {
        while !gives_up() {
            if let Some(lock) = Self::try_take(folder)? {
                return Ok(Some(lock));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(None)
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
