//! The folder of packed files: names, age, and how much it may hold.

use std::fs::{self, DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use super::checksum::checksum;
use super::stamp::real_path;
use super::{NamedMatrix, PackedFile, SourceStamp, file};
use crate::kernels::threads::Pool;
use crate::quant::LAYOUT_VERSION;

/// A file that nobody has written to for so long was left by a process that ended.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Packed files in one folder, one per model, quantization and layout version. A file's time of change says when it was last used.
#[derive(Debug, Clone)]
pub struct PackedCache {
    folder: PathBuf,
    /// Bytes that the folder may hold: the files that were not used for longest go first.
    max_bytes: u64,
}

impl PackedCache {
    pub fn new(folder: PathBuf, max_bytes: u64) -> Self {
        Self { folder, max_bytes }
    }

    /// The packed weights of the source, checked. A damaged file is deleted.
    pub fn open(&self, source: &SourceStamp, pool: &Pool) -> Option<PackedFile> {
        let path = self.path(source);
        let opened = PackedFile::open(&path, source).and_then(|packed| Ok((packed.is_intact(pool)?, packed)));
        match opened {
            Ok((true, packed)) => {
                mark_used(&path);
                Some(packed)
            }
            Ok((false, _)) => {
                tracing::debug!("{}: the packed weights are damaged and will be made anew", path.display());
                let _ = fs::remove_file(&path);
                None
            }
            Err(err) => {
                tracing::debug!("no packed weights: {err}");
                None
            }
        }
    }

    /// Writes the file of the source, unless it is there, too large, or cannot be written; then makes room.
    pub fn store(&self, source: &SourceStamp, matrices: &[NamedMatrix]) {
        let bytes: u64 = matrices.iter().map(|named| named.matrix.num_bytes() as u64).sum();
        let path = self.path(source);
        if bytes > self.max_bytes || PackedFile::open(&path, source).is_ok() {
            return;
        }
        match self.write(&path, source, matrices) {
            Ok(()) => self.evict(&path),
            Err(err) => tracing::debug!("{}: packed weights could not be kept: {err}", path.display()),
        }
    }

    fn write(&self, path: &Path, source: &SourceStamp, matrices: &[NamedMatrix]) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        let (draft, file) = create_draft(path)?;
        let written = file::write(file, source, matrices);
        let renamed = written.and_then(|()| fs::rename(&draft, path));
        if renamed.is_err() {
            let _ = fs::remove_file(&draft);
        }
        renamed
    }

    /// Deletes what a model has here, and returns the bytes that were freed. Processes that use it keep it
    /// until they end.
    pub fn remove(&self, model: &Path) -> u64 {
        let files = self.files_of(model).into_iter();
        files.filter(|(path, _)| fs::remove_file(path).is_ok()).map(|(_, bytes)| bytes).sum()
    }

    /// Bytes that a model has here.
    pub fn bytes_of(&self, model: &Path) -> u64 {
        self.files_of(model).iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes of all packed files.
    pub fn bytes(&self) -> u64 {
        self.entries().map(|(_, bytes, _)| bytes).sum()
    }

    fn files_of(&self, model: &Path) -> Vec<(PathBuf, u64)> {
        let Ok(model) = real_path(model) else { return Vec::new() };
        let key = key(&model);
        let is_of_model = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&key));
        self.entries().map(|(path, bytes, _)| (path, bytes)).filter(|(path, _)| is_of_model(path)).collect()
    }

    /// Deletes drafts that were left behind, and the oldest files while there are too many bytes; never `kept`.
    fn evict(&self, kept: &Path) {
        let now = SystemTime::now();
        let is_abandoned = |used: SystemTime| now.duration_since(used).is_ok_and(|age| age > ABANDONED);
        let mut files: Vec<_> = self.entries().collect();
        files.retain(|(path, _, used)| {
            let is_draft = path.extension().is_some_and(|extension| extension == "draft");
            if is_draft && is_abandoned(*used) {
                let _ = fs::remove_file(path);
            }
            !is_draft
        });
        files.sort_by_key(|&(.., used)| used);
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (path, bytes, _) in files.iter().filter(|(path, ..)| path != kept) {
            if total <= self.max_bytes {
                break;
            }
            if fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
    }

    /// Path, bytes and time of last use of what lies here.
    fn entries(&self) -> impl Iterator<Item = (PathBuf, u64, SystemTime)> + use<> {
        let look = |entry: DirEntry| {
            let meta = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((entry.path(), meta.len(), meta.modified().ok()?))
        };
        fs::read_dir(&self.folder).into_iter().flatten().flatten().filter_map(look)
    }

    fn path(&self, source: &SourceStamp) -> PathBuf {
        let scheme = source.quantization.iter().map(|name| format!("-{name}")).collect::<String>();
        self.folder.join(format!("{}{scheme}-v{LAYOUT_VERSION}.packed", key(&source.path)))
    }
}

/// How the names of a model's packed files begin.
fn key(real_path: &str) -> String {
    format!("{:016x}", checksum(real_path.as_bytes()))
}

/// A file that no other process or thread writes to. One that was killed may have left a file of the same name: in
/// containers all processes have the same id.
fn create_draft(path: &Path) -> io::Result<(PathBuf, File)> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let draft = path.with_extension(format!("{}-{count}.draft", std::process::id()));
        match File::create_new(&draft) {
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => {}
            file => return Ok((draft, file?)),
        }
    }
}

/// A folder that cannot be written keeps its files in the order of their making.
fn mark_used(path: &Path) {
    let marked = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(err) = marked {
        tracing::debug!("{}: {err}", path.display());
    }
}
