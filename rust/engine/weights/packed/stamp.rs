//! What tells one state of a model's files from another, without reading them whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::checksum::checksum;
use crate::config::Quantization;
use crate::weights::Checkpoint;

/// Formats begin with their names and shapes: another conversion of a model differs here.
const HEAD_BYTES: u64 = 64 << 10;

/// A model's path, how it was rounded, and its files' sizes, times of change and first bytes. A file that was changed in place
/// further behind, and given its old time back, is not noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStamp {
    /// Without symbolic links: what a packed file is named after.
    pub(super) path: String,
    /// What the source's numbers were rounded to, by the setting's name.
    pub(super) quantization: Option<String>,
    files: Vec<FileStamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileStamp {
    bytes: u64,
    /// Nanoseconds since 1970.
    modified: u64,
    /// Checksum of the first `HEAD_BYTES`.
    head: u64,
}

impl SourceStamp {
    pub fn of(checkpoint: &dyn Checkpoint, quantization: Option<Quantization>) -> io::Result<Self> {
        let files = checkpoint.files().into_iter().map(FileStamp::of).collect::<io::Result<_>>()?;
        let quantization = quantization.map(|quantization| quantization.to_string());
        Ok(Self { path: real_path(checkpoint.path())?, quantization, files })
    }
}

/// The one spelling of a model's path.
pub(super) fn real_path(path: &Path) -> io::Result<String> {
    Ok(fs::canonicalize(path)?.to_string_lossy().into_owned())
}

impl FileStamp {
    fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        let modified = meta.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut head = Vec::new();
        file.take(HEAD_BYTES).read_to_end(&mut head)?;
        Ok(Self { bytes: meta.len(), modified: modified.as_nanos() as u64, head: checksum(&head) })
    }
}
