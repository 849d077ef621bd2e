//! The file with the server's keys: their hashes, and the key itself only where it is to sign requests.
//!
//! ```json
//! {"keys": [{"name": "alice", "sha256": "9f86d0…", "requests_per_minute": 60, "tokens_per_minute": 20000}]}
//! ```

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    pub keys: Vec<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Who has it; unique, and what logs call it.
    pub name: String,
    #[serde(serialize_with = "to_hex", deserialize_with = "from_hex")]
    pub sha256: [u8; 32],
    /// The key itself, with which AWS's clients sign requests; its name is their access key id. Signatures can only be
    /// checked by who has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sigv4_secret: Option<Secret>,
    #[serde(flatten)]
    pub limits: KeyLimits,
}

/// A text that is not logged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// None: no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Prompt and generated tokens together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// For good, however often servers end and start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_budget: Option<u64>,
}

impl KeyFile {
    pub fn read(path: &Path) -> Result<Self, String> {
        let bad = |why: String| format!("{}: {why}", path.display());
        let text = std::fs::read(path).map_err(|err| bad(err.to_string()))?;
        let file: Self = serde_json::from_slice(&text).map_err(|err| bad(err.to_string()))?;
        file.check().map_err(bad).map(|()| file)
    }

    pub fn check(&self) -> Result<(), String> {
        let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
        for key in &self.keys {
            if key.name.is_empty() || key.name.contains(char::is_control) {
                return Err(format!("'{}' is no name for a key", key.name.escape_debug()));
            }
            // An id stands between slashes and commas.
            let is_id = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b));
            if key.sigv4_secret.is_some() && !is_id(&key.name) {
                let allowed = "letters, digits, '-', '_', '.', '@' and '+' are";
                return Err(format!("'{}' is no name for a key that signs: {allowed}", key.name.escape_debug()));
            }
            if !names.insert(&key.name) || !hashes.insert(key.sha256) {
                return Err(format!("the key '{}' is there twice", key.name));
            }
        }
        Ok(())
    }

    pub fn write(&self, path: &Path) -> Result<(), String> {
        replace(path, self)
    }
}

/// Replaces the file at once, so that nobody ever reads half of it, whatever ends the writer. Only its owner may read it.
pub fn replace(path: &Path, content: &impl Serialize) -> Result<(), String> {
    let bad = |err: std::io::Error| format!("{}: {err}", path.display());
    let text = serde_json::to_string_pretty(content).expect("strings and numbers only") + "\n";
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let mut file = File::create(&draft).map_err(bad)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(bad)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(bad)?;
    std::fs::rename(&draft, path).map_err(bad)
}

pub fn sha256(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("strings take everything");
        text
    })
}

fn to_hex<S: Serializer>(hash: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(hash))
}

fn from_hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
    let text = String::deserialize(deserializer)?;
    let bad = || serde::de::Error::custom("sha256 must be 64 hexadecimal digits");
    if text.len() != 64 || !text.is_ascii() {
        return Err(bad());
    }
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| bad())?;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let limits = KeyLimits { requests_per_minute: Some(60), ..KeyLimits::default() };
        let key = Key { name: "alice".into(), sha256: sha256("secret"), sigv4_secret: None, limits };
        let file = KeyFile { keys: vec![key] };
        file.write(&path).unwrap();
        assert_eq!(KeyFile::read(&path).unwrap(), file);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"), "{text}");
        assert!(!text.contains("secret") && !text.contains("token_budget"), "{text}");
    }

    #[test]
    fn broken_files_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let hash = "0".repeat(64);
        let twice = format!(r#"{{"name": "a", "sha256": "{hash}"}}"#);
        for (text, why) in [
            ("", "EOF"),
            ("{}", "keys"),
            (r#"{"keys": [{"name": "a", "sha256": "12"}]}"#, "64 hexadecimal"),
            (&format!(r#"{{"keys": [{twice}, {twice}]}}"#), "twice"),
            (&format!(r#"{{"keys": [{{"name": "", "sha256": "{hash}"}}]}}"#), "no name"),
            (
                &format!(r#"{{"keys": [{{"name": "a/b", "sha256": "{hash}", "sigv4_secret": "s"}}]}}"#),
                "'a/b' is no name",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = KeyFile::read(&path).unwrap_err();
            assert!(error.contains(why) && error.contains("keys.json"), "{error}");
        }
    }
}
