//! All that can be made, by name.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::Scheme;
use super::kquants::mixture::{MIXTURES, Mixture};
use crate::error::{Error, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// A folder of safetensors.
    Folder(Scheme),
    /// A GGUF file.
    Gguf(&'static Mixture),
}

impl Recipe {
    pub fn all() -> impl Iterator<Item = Self> {
        Scheme::ALL.into_iter().map(Self::Folder).chain(MIXTURES.iter().map(Self::Gguf))
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Folder(scheme) => scheme.name(),
            Self::Gguf(mixture) => mixture.name,
        }
    }

    /// Whether the choice of codes depends on what the model computes.
    pub const fn calibrates(self) -> bool {
        match self {
            Self::Folder(scheme) => scheme.calibrates(),
            Self::Gguf(_) => true,
        }
    }

    /// The target's name says what it is.
    pub fn check_target(self, target: &Path) -> Result<()> {
        let is_gguf = target.extension().is_some_and(|extension| extension == "gguf");
        let what = match (self, is_gguf) {
            (Self::Folder(_), true) => "a folder, whose name must not end with .gguf",
            (Self::Gguf(_), false) => "a file, whose name must end with .gguf",
            _ => return Ok(()),
        };
        Err(Error::InvalidConfig(format!("{self} makes {what}: {}", target.display())))
    }
}

impl From<Scheme> for Recipe {
    fn from(scheme: Scheme) -> Self {
        Self::Folder(scheme)
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::all().find(|recipe| recipe.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::all().map(Self::name).collect();
            Error::InvalidConfig(format!("'{name}' is no scheme: {} are", names.join(", ")))
        })
    }
}
