//! The header of a safetensors file. Source: the format section of the safetensors documentation.
//!
//! ```text
//! length u64 | JSON {name: {"dtype", "shape", "data_offsets": [from, to]}, "__metadata__": ...} | data ...
//! ```

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::error::{Error, Result};
use crate::quant::DType;

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

#[derive(Debug)]
pub struct TensorInfo {
    pub name: String,
    /// Err: the name of a type that Ferrule does not run.
    pub dtype: std::result::Result<DType, &'static str>,
    pub shape: Vec<usize>,
    /// In the file.
    pub range: Range<usize>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// Entries in the file's order: a map type would hide duplicate names.
struct Entries(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                entries.push((name, map.next_value()?));
            }
        }
        Ok(Entries(entries))
    }
}

pub fn parse(path: &Path, file: &[u8]) -> Result<Vec<TensorInfo>> {
    let (header, data_start) = split(path, file)?;
    let Entries(entries) = serde_json::from_slice(header)
        .map_err(|err| Error::corrupt(path, format!("the safetensors header does not parse: {err}")))?;
    let mut names = HashSet::new();
    if let Some((name, _)) = entries.iter().find(|(name, _)| !names.insert(name.as_str())) {
        return Err(Error::corrupt(path, format!("the tensor '{name}' occurs twice")));
    }
    entries.into_iter().map(|(name, entry)| place(path, name, entry, data_start, file.len())).collect()
}

/// The header's own texts.
pub fn metadata(path: &Path, file: &[u8]) -> Result<HashMap<String, String>> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default)]
        __metadata__: HashMap<String, String>,
    }
    let (header, _) = split(path, file)?;
    serde_json::from_slice(header)
        .map(|Header { __metadata__ }| __metadata__)
        .map_err(|err| Error::corrupt(path, format!("the safetensors header's metadata does not parse: {err}")))
}

/// The header's bytes and where the data starts.
fn split<'a>(path: &Path, file: &'a [u8]) -> Result<(&'a [u8], usize)> {
    let (len, rest) =
        file.split_first_chunk().ok_or_else(|| Error::corrupt(path, "the file is too short for safetensors"))?;
    let len = u64::from_le_bytes(*len);
    match usize::try_from(len) {
        Ok(header_len) if header_len <= rest.len() && len <= MAX_HEADER_BYTES => {
            Ok((&rest[..header_len], 8 + header_len))
        }
        _ => Err(Error::corrupt(path, format!("a header of {len} bytes cannot be in a file of {}", file.len()))),
    }
}

fn place(path: &Path, name: String, entry: Entry, data_start: usize, file_len: usize) -> Result<TensorInfo> {
    let (from, to) = entry.data_offsets;
    let end = data_start.checked_add(to).filter(|&end| from <= to && end <= file_len).ok_or_else(|| {
        let what = format!("tensor '{name}' is at {from}..{to}, outside of the file: it is cut short or corrupt");
        Error::corrupt(path, what)
    })?;
    let dtype = dtype(&entry.dtype);
    let needed = match dtype {
        Ok(dtype) => dtype.num_bytes(&entry.shape).map(Some),
        Err(other) => other_bytes(other, &entry.shape),
    };
    if needed != Some(None) && needed != Some(Some(to - from)) {
        let what = format!("tensor '{name}' of shape {:?} does not take {} bytes", entry.shape, to - from);
        return Err(Error::corrupt(path, what));
    }
    Ok(TensorInfo { name, dtype, shape: entry.shape, range: end - (to - from)..end })
}

/// Types that are no weights of their own, with their bits.
const OTHERS: &[(&str, usize)] = &[
    ("BOOL", 8),
    ("U8", 8),
    ("I8", 8),
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("F8_E8M0", 8),
    ("F4", 4),
    ("U16", 16),
    ("I16", 16),
    ("U32", 32),
    ("I32", 32),
    ("U64", 64),
    ("I64", 64),
    ("F64", 64),
];

/// Err: the name of a type that Ferrule does not run.
fn dtype(name: &str) -> std::result::Result<DType, &'static str> {
    match name {
        "F32" => Ok(DType::F32),
        "F16" => Ok(DType::F16),
        "BF16" => Ok(DType::BF16),
        _ => Err(OTHERS.iter().find(|(other, _)| *other == name).map_or("of an unknown type", |(other, _)| other)),
    }
}

/// Bytes of a tensor of one of `OTHERS`; Some(None) of an unknown type. None: it overflows.
fn other_bytes(name: &str, shape: &[usize]) -> Option<Option<usize>> {
    let Some((_, bits)) = OTHERS.iter().find(|(other, _)| *other == name) else { return Some(None) };
    shape.iter().try_fold(*bits, |bits, &dim| bits.checked_mul(dim)).map(|bits| Some(bits.div_ceil(8)))
}
