//! Tensors on their way to a safetensors file, and the file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// A tensor with its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct OutTensor<B = Vec<u8>> {
    pub name: String,
    /// Safetensors' name of the type.
    pub dtype: String,
    pub shape: Vec<usize>,
    pub bytes: B,
}

impl OutTensor {
    pub fn floats(name: String, shape: Vec<usize>, numbers: &[f32]) -> Self {
        Self { name, dtype: "F32".into(), shape, bytes: numbers.iter().flat_map(|x| x.to_le_bytes()).collect() }
    }

    pub fn words(name: String, shape: Vec<usize>, words: &[u32]) -> Self {
        Self { name, dtype: "I32".into(), shape, bytes: words.iter().flat_map(|x| x.to_le_bytes()).collect() }
    }
}

/// Writes `path` whole or not at all: under another name first, and renamed when it is on disk.
pub fn write<B: AsRef<[u8]>>(path: &Path, metadata: &[(String, String)], tensors: &[OutTensor<B>]) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    let fail = |err| Error::io(&unfinished, err);
    let mut file = BufWriter::new(File::create(&unfinished).map_err(fail)?);
    let header = header(metadata, tensors);
    file.write_all(&(header.len() as u64).to_le_bytes()).and_then(|()| file.write_all(&header)).map_err(fail)?;
    for tensor in tensors {
        file.write_all(tensor.bytes.as_ref()).map_err(fail)?;
    }
    file.into_inner().map_err(|err| fail(err.into_error()))?.sync_all().map_err(fail)?;
    std::fs::rename(&unfinished, path).map_err(|err| Error::io(path, err))
}

/// Padded with spaces, so that the data starts at a multiple of 8.
fn header<B: AsRef<[u8]>>(metadata: &[(String, String)], tensors: &[OutTensor<B>]) -> Vec<u8> {
    let mut header = Map::new();
    let metadata = [("format".to_owned(), "pt".to_owned())].into_iter().chain(metadata.iter().cloned());
    header.insert("__metadata__".into(), metadata.map(|(key, text)| (key, Value::String(text))).collect());
    let mut end = 0;
    for tensor in tensors {
        let start = end;
        end += tensor.bytes.as_ref().len();
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    text
}
