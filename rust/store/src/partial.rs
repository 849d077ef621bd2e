//! A file on its way: its bytes gather beside its place, hashed as they come.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::manifest::{FileRecord, sync_folder};
use crate::progress::Progress;

const BUFFER_BYTES: usize = 256 << 10;

/// What a complete file must be.
#[derive(Debug, Clone)]
pub struct Expected {
    pub bytes: Option<u64>,
    pub sha256: Option<String>,
}

#[derive(Debug)]
pub struct Partial {
    /// Relative to the model's folder.
    name: String,
    target: PathBuf,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    len: u64,
}

impl Partial {
    /// Goes on with what an earlier attempt at the same content (`key`) left of `folder/name`. `keep` says
    /// how many of the bytes found are of use.
    pub fn open(folder: &Path, name: &str, key: &str, keep: impl Fn(u64) -> u64) -> Result<Self> {
        let target = folder.join(name);
        let mut path = target.clone().into_os_string();
        path.push(format!(".{}.partial", key.get(..16).unwrap_or(key)));
        let path = PathBuf::from(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|err| Error::io(parent, err))?;
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|err| Error::io(&path, err))?;
        let mut partial = Self { name: name.into(), target, path, file, hasher: Sha256::new(), len: 0 };
        partial.rehash(keep)?;
        Ok(partial)
    }

    /// Bytes that are here.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Drops all bytes: the source does not continue them.
    pub fn restart(&mut self) -> Result<()> {
        self.rehash(|_| 0)
    }

    fn rehash(&mut self, keep: impl Fn(u64) -> u64) -> Result<()> {
        let read = |file: &mut File| -> io::Result<(Sha256, u64)> {
            let found = file.metadata()?.len();
            let len = keep(found).min(found);
            file.set_len(len)?;
            file.rewind()?;
            let mut hasher = Sha256::new();
            io::copy(file, &mut hasher)?;
            Ok((hasher, len))
        };
        (self.hasher, self.len) = read(&mut self.file).map_err(|err| Error::io(&self.path, err))?;
        Ok(())
    }

    /// Appends `source` to its end. The inner error is the source's, the outer one the disk's.
    pub fn append(&mut self, source: &mut impl Read, progress: &mut dyn Progress) -> Result<io::Result<()>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = match source.read(&mut buffer) {
                Ok(0) => return Ok(Ok(())),
                Ok(count) => count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Ok(Err(err)),
            };
            self.file.write_all(&buffer[..count]).map_err(|err| Error::io(&self.path, err))?;
            self.hasher.update(&buffer[..count]);
            self.len += count as u64;
            progress.position(self.len);
            if progress.is_cancelled() {
                return Err(Error::Cancelled { what: self.name.clone() });
            }
        }
    }

    /// Gives the file its name if it is what was expected, and deletes it otherwise.
    pub fn finish(self, expected: &Expected) -> Result<FileRecord> {
        let sha256 = hex(&self.hasher.clone().finalize());
        if let Err(err) = check(&self.name, self.len, &sha256, expected) {
            let _ = fs::remove_file(&self.path);
            return Err(err);
        }
        let settle = || {
            self.file.sync_all()?;
            fs::rename(&self.path, &self.target)?;
            sync_folder(self.target.parent().unwrap_or(Path::new(".")))
        };
        settle().map_err(|err| Error::io(&self.target, err))?;
        Ok(FileRecord { path: self.name, bytes: self.len, sha256 })
    }

    /// The record of `folder/name` if it is there already and is what is expected.
    pub fn existing(folder: &Path, name: &str, expected: &Expected) -> Option<FileRecord> {
        let path = folder.join(name);
        let mut file = File::open(&path).ok()?;
        let mut hasher = Sha256::new();
        let bytes = io::copy(&mut file, &mut hasher).ok()?;
        let sha256 = hex(&hasher.finalize());
        check(name, bytes, &sha256, expected).is_ok().then(|| FileRecord { path: name.into(), bytes, sha256 })
    }

    /// Makes sure that the disk has what was appended before the source is deleted.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|err| Error::io(&self.path, err))
    }
}

fn check(name: &str, bytes: u64, sha256: &str, expected: &Expected) -> Result<()> {
    if let Some(wanted) = expected.bytes.filter(|&wanted| wanted != bytes) {
        return Err(Error::Length { what: name.into(), expected: wanted, found: bytes });
    }
    match &expected.sha256 {
        Some(wanted) if wanted != sha256 => {
            Err(Error::Checksum { what: name.into(), expected: wanted.clone(), found: sha256.into() })
        }
        _ => Ok(()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"; // FIPS 180-2, B.1

    fn expected(bytes: u64) -> Expected {
        Expected { bytes: Some(bytes), sha256: Some(ABC.into()) }
    }

    #[test]
    fn a_file_in_two_attempts_is_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Partial::open(dir.path(), "sub/abc", ABC, |len| len).unwrap();
        first.append(&mut &b"ab"[..], &mut Silent).unwrap().unwrap();
        drop(first);
        let mut second = Partial::open(dir.path(), "sub/abc", ABC, |len| len).unwrap();
        assert_eq!(second.len(), 2);
        second.append(&mut &b"c"[..], &mut Silent).unwrap().unwrap();
        assert_eq!(second.finish(&expected(3)).unwrap().sha256, ABC);
        assert_eq!(fs::read(dir.path().join("sub/abc")).unwrap(), b"abc");
    }

    #[test]
    fn wrong_bytes_are_deleted_and_never_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut partial = Partial::open(dir.path(), "abc", ABC, |len| len).unwrap();
        partial.append(&mut &b"abd"[..], &mut Silent).unwrap().unwrap();
        assert!(matches!(partial.finish(&expected(3)), Err(Error::Checksum { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn only_the_useful_part_of_an_attempt_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut partial = Partial::open(dir.path(), "abc", ABC, |len| len).unwrap();
        partial.append(&mut &b"abXYZ"[..], &mut Silent).unwrap().unwrap();
        drop(partial);
        let mut partial = Partial::open(dir.path(), "abc", ABC, |_| 2).unwrap();
        partial.append(&mut &b"c"[..], &mut Silent).unwrap().unwrap();
        assert!(partial.finish(&expected(3)).is_ok());
    }
}
