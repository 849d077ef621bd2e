//! The file with what keys have used, beside the file with the keys: budgets outlive the server.
//!
//! ```json
//! {"tokens": {"alice": 51234}}
//! ```

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::key_file::replace;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Prompt and generated tokens together, by the key's name.
    pub tokens: BTreeMap<String, u64>,
}

impl Usage {
    /// `keys.json.usage` for `keys.json`.
    pub fn path(keys: &Path) -> PathBuf {
        let mut path = keys.as_os_str().to_owned();
        path.push(".usage");
        path.into()
    }

    /// Nothing was used where there is no file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let bad = |why: String| format!("{}: {why}", path.display());
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|err| bad(err.to_string())),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(err) => Err(bad(err.to_string())),
        }
    }

    pub fn write(&self, path: &Path) -> Result<(), String> {
        replace(path, self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = Usage::path(&folder.path().join("keys.json"));
        assert_eq!(path.file_name().unwrap(), "keys.json.usage");
        assert_eq!(Usage::read(&path).unwrap(), Usage::default());
        let usage = Usage { tokens: [("alice".into(), 3), ("bob".into(), u64::MAX)].into() };
        usage.write(&path).unwrap();
        assert_eq!(Usage::read(&path).unwrap(), usage);
        std::fs::write(&path, "{").unwrap();
        assert!(Usage::read(&path).unwrap_err().contains("keys.json.usage"));
    }
}
