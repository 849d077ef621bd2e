//! Files as memory.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};

use crate::error::{Error, Result};

/// A whole file, mapped read-only.
#[derive(Debug)]
pub struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<Self> {
        let io = |err| Error::io(path, err);
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(Error::corrupt(path, "this is not a regular file"));
        }
        if meta.len() == 0 {
            return Err(Error::corrupt(path, "the file is empty"));
        }
        // SAFETY: the mapping is private and read-only; model files are replaced by renaming, never written in place.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Self { path: path.into(), map })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Advice, of use where the file system keeps large pieces of files; otherwise nothing changes.
    pub fn advise_huge_pages(&self) {
        #[cfg(target_os = "linux")]
        if let Err(err) = self.map.advise(memmap2::Advice::HugePage) {
            tracing::debug!("no huge pages for {}: {err}", self.path.display());
        }
    }

    /// Drops the pages that lie wholly inside `part`, a piece of this file; reading them again reads the file.
    pub fn release(&self, part: &[u8]) {
        let Some(start) = (part.as_ptr() as usize).checked_sub(self.map.as_ptr() as usize) else { return };
        let end = start + part.len();
        let page = page_bytes();
        let (first, last) = (start.next_multiple_of(page), end / page * page);
        if end > self.map.len() || first >= last {
            return;
        }
        // SAFETY: the range is inside a read-only mapping of a file, so dropped pages come back with the same bytes.
        // A refusal costs memory, not correctness, so it is ignored.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, first, last - first) };
    }
}

fn page_bytes() -> usize {
    // SAFETY: sysconf only reads a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096).max(4096)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_bytes_read_the_same_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights");
        let content: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = MappedFile::open(&path).unwrap();
        file.release(&file.bytes()[5000..90_000]);
        file.release(&[1, 2, 3]);
        assert_eq!(file.bytes(), content);
    }

    #[test]
    fn what_is_no_file_with_content_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty");
        std::fs::write(&empty, []).unwrap();
        assert!(matches!(MappedFile::open(&empty), Err(Error::Corrupt { .. })));
        assert!(matches!(MappedFile::open(dir.path()), Err(Error::Corrupt { .. })));
        assert!(matches!(MappedFile::open(&dir.path().join("none")), Err(Error::Io { .. })));
    }
}
