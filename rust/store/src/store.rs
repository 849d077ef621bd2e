//! The store: what a name stands for, and what is here.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::catalogue::Catalogue;
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::fetch::Fetch;
use crate::lock::Lock;
use crate::manifest::Model;
use crate::name::{Name, folder_name};
use crate::progress::Progress;

#[derive(Debug, Clone)]
pub struct Store {
    config: StoreConfig,
    catalogue: Catalogue,
}

impl Store {
    /// The user's store, as the environment says.
    pub fn open_default() -> Result<Self> {
        Ok(Self::new(StoreConfig::from_env()?, Catalogue::built_in()))
    }

    pub fn new(config: StoreConfig, catalogue: Catalogue) -> Self {
        Self { config, catalogue }
    }

    /// Where Ferrule keeps what it keeps between runs.
    pub fn home(&self) -> &Path {
        &self.config.home
    }

    /// Where the engine keeps weights as its kernels read them.
    pub fn packed_weights(&self) -> PathBuf {
        self.config.home.join("packed")
    }

    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    pub fn parse(&self, name: &str) -> Result<Name> {
        match Name::parse(name, &self.catalogue) {
            Err(_) if self.is_copy(name) => Ok(Name::Copy(name.into())),
            parsed => parsed,
        }
    }

    /// What the engine opens for `name`, if it is on this machine; asks no network.
    pub fn resolve(&self, name: &str) -> Result<PathBuf> {
        match self.parse(name)? {
            Name::Path(path) => check_path(path),
            _ => self.show(name).map(|model| model.path()),
        }
    }

    /// The same, pulled first if it is not here.
    pub fn locate(&self, name: &str, progress: &mut dyn Progress) -> Result<PathBuf> {
        match self.parse(name)? {
            Name::Path(path) => check_path(path),
            _ => self.pull(name, progress).map(|model| model.path()),
        }
    }

    /// Fetches the model unless it is here. What a broken attempt left is used by the next.
    pub fn pull(&self, name: &str, progress: &mut dyn Progress) -> Result<Model> {
        let parsed = self.parse(name)?;
        let (canonical, folder) = self.place(name, &parsed)?;
        if let Some(model) = Model::read(&folder) {
            return Ok(model);
        }
        let _lock = match Lock::try_take(&folder)? {
            Some(lock) => lock,
            None => {
                progress.message(&format!("another process is fetching {canonical}; waiting for it"));
                let lock = Lock::wait(&folder, || progress.is_cancelled())?;
                lock.ok_or_else(|| Error::Cancelled { what: canonical.clone() })?
            }
        };
        match Model::read(&folder) {
            Some(model) => Ok(model),
            None => self.fetch(&parsed, canonical, folder, progress),
        }
    }

    fn fetch(&self, name: &Name, canonical: String, folder: PathBuf, progress: &mut dyn Progress) -> Result<Model> {
        fs::create_dir_all(&folder).map_err(|err| Error::io(&folder, err))?;
        Model::forget(&folder)?;
        let fetched = Fetch { config: &self.config, folder: &folder, progress }.run(name)?;
        let pulled_at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let model = Model {
            name: canonical,
            source: fetched.source,
            license: fetched.license,
            entry: fetched.entry,
            files: fetched.files,
            pulled_at,
            folder,
        };
        model.write()?;
        clean(&model.folder);
        Ok(model)
    }

    /// The models that are here, by name.
    pub fn list(&self) -> Result<Vec<Model>> {
        let folder = self.models();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(err) => return Err(Error::io(&folder, err)),
        };
        let mut models: Vec<Model> = entries.flatten().filter_map(|entry| Model::read(&entry.path())).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    pub fn show(&self, name: &str) -> Result<Model> {
        let (canonical, folder) = self.place(name, &self.parse(name)?)?;
        Model::read(&folder).ok_or(Error::NotPulled { name: canonical })
    }

    /// Deletes the model, or what a broken pull left of it. Returns the bytes that were freed.
    pub fn remove(&self, name: &str) -> Result<u64> {
        let (canonical, folder) = self.place(name, &self.parse(name)?)?;
        if !folder.exists() {
            return Err(Error::NotPulled { name: canonical });
        }
        let _lock = Lock::try_take(&folder)?.ok_or(Error::Busy { name: canonical })?;
        let bytes = folder_bytes(&folder);
        Model::forget(&folder)?;
        fs::remove_dir_all(&folder).map_err(|err| Error::io(&folder, err))?;
        Ok(bytes)
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.config.home.join("models")
    }

    /// The model's one spelling and its folder, which need not exist.
    fn place(&self, name: &str, parsed: &Name) -> Result<(String, PathBuf)> {
        let canonical = parsed.canonical().ok_or_else(|| Error::BadName {
            name: name.into(),
            why: "it is a path, and the store keeps models by name".into(),
        })?;
        let folder = self.models().join(folder_name(&canonical));
        Ok((canonical, folder))
    }
}

/// A path that may be a model; what is in it is the engine's business.
fn check_path(path: PathBuf) -> Result<PathBuf> {
    if !path.exists() {
        return Err(Error::NoSuchPath { path });
    }
    if path.is_dir() && !path.join("config.json").is_file() {
        return Err(Error::NotAModel { path, why: "the folder has no config.json".into() });
    }
    Ok(path)
}

/// Wheels and partial files have served when the manifest is written. What stays costs room only.
fn clean(folder: &Path) {
    let _ = fs::remove_dir_all(folder.join("wheels"));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "partial") {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What deleting the folder frees: files that copies share stay.
fn folder_bytes(folder: &Path) -> u64 {
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
        Ok(meta) if meta.nlink() > 1 => 0,
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    fs::read_dir(folder).into_iter().flatten().flatten().map(bytes).sum()
}
