//! What the store knows about a model that is complete.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const FILE_NAME: &str = "manifest.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Relative to the model's folder.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// A model in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    pub name: String,
    /// Where it came from: `hf:...` or `pypi:...`.
    pub source: String,
    pub license: Option<String>,
    /// What the engine opens, relative to the folder: a `.gguf` file, or "" for the folder itself.
    pub entry: String,
    pub files: Vec<FileRecord>,
    /// Seconds since 1970.
    pub pulled_at: u64,
    #[serde(skip)]
    pub folder: PathBuf,
}

impl Model {
    /// What the engine opens.
    pub fn path(&self) -> PathBuf {
        match self.entry.is_empty() {
            true => self.folder.clone(),
            false => self.folder.join(&self.entry),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The model in `folder`, if its manifest is there and every file still has its size.
    pub(crate) fn read(folder: &Path) -> Option<Self> {
        let manifest = fs::read(folder.join(FILE_NAME)).ok()?;
        let model = Self { folder: folder.into(), ..serde_json::from_slice(&manifest).ok()? };
        let is_whole = |file: &FileRecord| fs::metadata(folder.join(&file.path)).is_ok_and(|m| m.len() == file.bytes);
        model.files.iter().all(is_whole).then_some(model)
    }

    /// Makes the folder a model. Every file must be in place.
    pub(crate) fn write(&self) -> Result<()> {
        let path = self.folder.join(FILE_NAME);
        let draft = self.folder.join("manifest.json.new");
        let text = serde_json::to_vec_pretty(self).expect("strings and numbers only");
        let write = || {
            let mut file = fs::File::create(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            sync_folder(&self.folder)
        };
        write().map_err(|err| Error::io(&path, err))
    }

    /// Makes `folder` no model any more, whatever else is in it.
    pub(crate) fn forget(folder: &Path) -> Result<()> {
        let path = folder.join(FILE_NAME);
        match fs::remove_file(&path) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, err)),
            _ => Ok(()),
        }
    }
}

/// A rename lasts only when its folder is on the disk.
pub(crate) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    match cfg!(unix) {
        true => fs::File::open(folder)?.sync_all(),
        false => Ok(()),
    }
}
