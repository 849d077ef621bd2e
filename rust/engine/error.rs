//! Errors say whose fault it is, carry data, and are mapped once per border (HTTP, Python, exit code).

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request as written cannot be served. The text names the limit and the value.
    #[error("{0}")]
    InvalidRequest(String),

    /// A setting of the engine is out of range or contradicts another one.
    #[error("{0}")]
    InvalidConfig(String),

    /// `what` says what was looked for and where.
    #[error("{0}")]
    ModelNotFound(String),

    /// The file is sound, but Ferrule does not run this architecture, tokenizer or type.
    #[error("{}: {what}", path.display())]
    Unsupported { path: PathBuf, what: String },

    /// The file breaks its own format: truncated, inconsistent, or not what its name says.
    #[error("{}: {what}", path.display())]
    Corrupt { path: PathBuf, what: String },

    /// What is needed does not fit; the text has the numbers.
    #[error("{0}")]
    OutOfMemory(String),

    /// The GPU, its driver or its compiler: missing, too old, or failed. The text says what to do where that is known.
    #[error("{0}")]
    Device(String),

    /// The queue is full: try again later.
    #[error("the engine's queue is full: {queued} requests wait and the limit is {limit}; try again later")]
    Overloaded { queued: usize, limit: usize },

    /// The request was cancelled by its caller or by shutdown.
    #[error("cancelled: {0}")]
    Cancelled(String),

    #[error("{}: {what}", path.display())]
    Io { path: PathBuf, what: String },

    /// A defect of Ferrule's own.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Who has to act for the error to go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller: another request would work (HTTP 4xx, Python `ValueError`, exit code 2).
    Caller,
    /// The model's files (exit code 3).
    Model,
    /// The machine: memory, disk, load (HTTP 429/503, exit code 4).
    Machine,
    /// Ferrule (HTTP 500, exit code 1).
    Ferrule,
}

impl Error {
    pub fn fault(&self) -> Fault {
        match self {
            Self::InvalidRequest(_) | Self::InvalidConfig(_) | Self::ModelNotFound(_) | Self::Cancelled(_) => {
                Fault::Caller
            }
            Self::Unsupported { .. } | Self::Corrupt { .. } => Fault::Model,
            Self::OutOfMemory(_) | Self::Device(_) | Self::Overloaded { .. } | Self::Io { .. } => Fault::Machine,
            Self::Internal(_) => Fault::Ferrule,
        }
    }

    pub fn corrupt(path: &Path, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.into(), what: what.into() }
    }

    pub fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), what: what.into() }
    }

    pub fn io(path: &Path, err: std::io::Error) -> Self {
        Self::Io { path: path.into(), what: err.to_string() }
    }
}
