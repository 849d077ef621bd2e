//! A model's configuration from a Hugging Face folder's config.json.

use std::path::Path;

use super::ModelConfig;
use super::families::Family;
use crate::error::{Error, Result};

pub fn read(dir: &Path) -> Result<(&'static Family, ModelConfig)> {
    Err(Error::unsupported(dir, "folders cannot be opened yet"))
}
