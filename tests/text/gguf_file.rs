//! GGUF files that have metadata and no tensors, in a temporary folder.

use std::path::Path;

use ferrule_engine::Error;
use ferrule_engine::text::Tokenizer;
use ferrule_engine::weights::Gguf;
use serde_json::{Map, Value};

pub type Metadata = Map<String, Value>;

/// Type numbers of the format.
const UINT32: u32 = 4;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const INT32: u32 = 5;

fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn scalar(out: &mut Vec<u8>, kind: u32, value: &Value) {
    match kind {
        STRING => string(out, value.as_str().unwrap()),
        BOOL => out.push(u8::from(value.as_bool().unwrap())),
        FLOAT32 => out.extend((value.as_f64().unwrap() as f32).to_le_bytes()),
        _ => out.extend((value.as_i64().unwrap() as i32).to_le_bytes()),
    }
}

fn kind_of(value: &Value) -> u32 {
    match value {
        Value::String(_) => STRING,
        Value::Bool(_) => BOOL,
        Value::Number(n) if n.is_f64() => FLOAT32,
        Value::Number(n) if n.is_u64() => UINT32,
        _ => INT32,
    }
}

fn value(out: &mut Vec<u8>, value: &Value) {
    let Value::Array(items) = value else {
        out.extend(kind_of(value).to_le_bytes());
        return scalar(out, kind_of(value), value);
    };
    let kind = items.first().map_or(STRING, kind_of);
    out.extend(ARRAY.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend((items.len() as u64).to_le_bytes());
    items.iter().for_each(|item| scalar(out, kind, item));
}

pub fn write(path: &Path, metadata: &Metadata) {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(0u64.to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, item) in metadata {
        string(&mut out, key);
        value(&mut out, item);
    }
    out.resize(out.len().next_multiple_of(32), 0);
    std::fs::write(path, out).unwrap();
}

pub fn load(metadata: &Metadata) -> Result<Tokenizer, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.gguf");
    write(&path, metadata);
    Tokenizer::from_gguf(&Gguf::open(&path)?)
}
