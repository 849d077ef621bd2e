//! Where a model keeps its chat template, and the special tokens that it names.

use std::path::Path;

use serde_json::Value as Json;

use super::ChatTemplate;
use crate::error::{Error, Result};
use crate::weights::{Gguf, Value};

/// Special tokens that templates know by name.
const SPECIAL: [&str; 4] = ["bos_token", "eos_token", "unk_token", "pad_token"];

impl ChatTemplate {
    /// From `tokenizer.chat_template`. None: a base model.
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Self>> {
        let Some(Value::String(source)) = gguf.get("tokenizer.chat_template") else { return Ok(None) };
        let special: Vec<_> =
            SPECIAL.iter().filter_map(|name| Some((name.to_string(), gguf_token(gguf, name)?))).collect();
        Self::new(source, &special).map(Some)
    }

    /// From `chat_template.jinja`, or from `tokenizer_config.json` (where a list of templates may stand, of
    /// which "default" is meant). None: a base model.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>> {
        let config = config(dir)?;
        let special: Vec<_> =
            SPECIAL.iter().filter_map(|name| Some((name.to_string(), token_text(&config[*name])?))).collect();
        of_dir(dir)?.map(|source| Self::new(&source, &special)).transpose()
    }
}

/// The template of a Hugging Face folder as it is written there.
pub(super) fn of_dir(dir: &Path) -> Result<Option<String>> {
    let file = dir.join("chat_template.jinja");
    match std::fs::read_to_string(&file) {
        Ok(source) => Ok(Some(source)),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(default_template(&config(dir)?["chat_template"])),
        Err(err) => Err(Error::io(&file, err)),
    }
}

/// tokenizer_config.json, or null.
fn config(dir: &Path) -> Result<Json> {
    Ok(read_json(&dir.join("tokenizer_config.json"))?.unwrap_or(Json::Null))
}

/// "bos_token" → the text of the token with the id `tokenizer.ggml.bos_token_id`.
fn gguf_token(gguf: &Gguf, name: &str) -> Option<String> {
    let kind = match name {
        "unk_token" => "unknown",
        "pad_token" => "padding",
        _ => name.strip_suffix("_token")?,
    };
    let id = match gguf.get(&format!("tokenizer.ggml.{kind}_token_id"))? {
        Value::U64(id) => usize::try_from(*id).ok()?,
        Value::I64(id) => usize::try_from(*id).ok()?,
        _ => return None,
    };
    match gguf.get("tokenizer.ggml.tokens")? {
        Value::Strings(tokens) => tokens.get(id).map(String::from),
        _ => None,
    }
}

fn default_template(value: &Json) -> Option<String> {
    match value {
        Json::String(source) => Some(source.clone()),
        Json::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default")?;
            default["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// A token is written as its text, or as an object with its text as `content`.
fn token_text(value: &Json) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

pub(super) fn read_json(path: &Path) -> Result<Option<Json>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|err| Error::corrupt(path, format!("this is not JSON: {err}"))),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::io(path, err)),
    }
}
