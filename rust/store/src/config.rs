//! Where the store is and whom it asks. The only module that reads environment variables.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Holds `models/`, and whatever else Ferrule keeps between runs.
    pub home: PathBuf,
    /// The hub's address, without a slash at the end. None: the hub is not asked.
    pub hub_endpoint: Option<String>,
    pub hub_token: Option<String>,
    /// Certificates to trust instead of the built-in ones, in PEM form.
    pub ca_bundle: Option<PathBuf>,
    /// Interpreters to look for pip in, in order.
    pub pythons: Vec<OsString>,
}

impl StoreConfig {
    /// From FERRULE_HOME (or the platform's data folder), HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE,
    /// SSL_CERT_FILE and FERRULE_PYTHON.
    pub fn from_env() -> Result<Self> {
        Ok(Self {
            home: home()?,
            hub_endpoint: hub_endpoint(),
            hub_token: hub_token(),
            ca_bundle: var("SSL_CERT_FILE").map(PathBuf::from),
            pythons: pythons(),
        })
    }
}

/// An environment variable that is set and not empty.
fn var(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

fn user_folder(xdg: &str, below_home: &str) -> Option<PathBuf> {
    let from_xdg = var(xdg).map(PathBuf::from).filter(|path| path.is_absolute());
    from_xdg.or_else(|| env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(below_home)))
}

fn home() -> Result<PathBuf> {
    if let Some(home) = var("FERRULE_HOME") {
        return std::path::absolute(&home).map_err(|err| Error::io(Path::new(&home), err));
    }
    let data = if cfg!(target_os = "macos") { "Library/Application Support" } else { ".local/share" };
    user_folder("XDG_DATA_HOME", data).map(|data| data.join("ferrule")).ok_or(Error::NoHome)
}

fn hub_endpoint() -> Option<String> {
    let offline = var("HF_HUB_OFFLINE")
        .is_some_and(|value| ["1", "true", "yes", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes)));
    let endpoint = match var("HF_ENDPOINT") {
        Some(endpoint) => endpoint.to_string_lossy().into_owned(),
        None => "https://huggingface.co".into(),
    };
    (!offline).then(|| endpoint.trim_end_matches('/').to_owned())
}

/// HF_TOKEN, or what `huggingface-cli login` left in its token file.
fn hub_token() -> Option<String> {
    let file = || {
        let folder = var("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| user_folder("XDG_CACHE_HOME", ".cache").map(|cache| cache.join("huggingface")));
        let path = var("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| folder.map(|folder| folder.join("token")))?;
        std::fs::read_to_string(path).ok()
    };
    let token = var("HF_TOKEN").map(|token| token.to_string_lossy().into_owned()).or_else(file)?;
    let token = token.trim();
    (!token.is_empty()).then(|| token.to_owned())
}

fn pythons() -> Vec<OsString> {
    match var("FERRULE_PYTHON") {
        Some(python) => vec![python],
        None => vec!["python3".into(), "python".into()],
    }
}
