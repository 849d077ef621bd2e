//! The files of a quantized folder.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::tensor::{OutTensor, write};
use crate::error::{Error, Result};
use crate::model::Source;
use crate::text::hf_export;
use crate::weights::{Checkpoint, SafetensorsDir};

const INDEX: &str = "model.safetensors.index.json";
const WHOLE: &str = "model.safetensors";

/// Files of a source folder that say nothing about its tensors.
const COPIED: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

/// The tokenizer and what belongs to it: copied from a folder, or made of what a GGUF file carries.
pub fn write_texts(source: &Source, dir: &Path) -> Result<()> {
    if let Some(gguf) = source.checkpoint.gguf() {
        for (name, content) in hf_export::files(gguf)? {
            let path = dir.join(name);
            std::fs::write(&path, content.to_string()).map_err(|err| Error::io(&path, err))?;
        }
        return Ok(());
    }
    for name in COPIED {
        let from = source.checkpoint.path().join(name);
        if from.is_file() {
            std::fs::copy(&from, dir.join(name)).map_err(|err| Error::io(&from, err))?;
        }
    }
    Ok(())
}

/// Makes the files of `dir` one model, until `assemble` makes them one file.
pub fn write_index(dir: &Path, files: &[String]) -> Result<()> {
    let mut weight_map = Map::new();
    for file in files {
        let path = dir.join(file);
        for name in SafetensorsDir::open_file(&path)?.tensor_names() {
            weight_map.insert(name.into(), Value::String(file.clone()));
        }
    }
    let path = dir.join(INDEX);
    let index = json!({"metadata": {}, "weight_map": weight_map});
    std::fs::write(&path, index.to_string()).map_err(|err| Error::io(&path, err))
}

/// Bytes of the tensors of `dir`.
pub fn num_bytes(dir: &Path) -> Result<u64> {
    let parts = SafetensorsDir::open(dir)?;
    Ok(parts.tensor_names().iter().filter_map(|name| parts.raw(name)).map(|tensor| tensor.bytes.len() as u64).sum())
}

/// Writes the tensors of all files of `dir` to one, with `metadata`.
pub fn assemble(dir: &Path, metadata: &[(String, String)]) -> Result<()> {
    let parts = SafetensorsDir::open(dir)?;
    let tensor = |name: &str| {
        let raw = parts.raw(name).expect("the name is the folder's own");
        OutTensor { name: name.into(), dtype: raw.dtype.into(), shape: raw.shape.to_vec(), bytes: raw.bytes }
    };
    let tensors: Vec<OutTensor<&[u8]>> = parts.tensor_names().into_iter().map(tensor).collect();
    write(&dir.join(WHOLE), metadata, &tensors)
}
