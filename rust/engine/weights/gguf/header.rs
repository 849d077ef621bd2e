//! The header: metadata and the tensors' places.
//!
//! ```text
//! "GGUF" | version u32 | tensors u64 | pairs u64 | pairs ... | tensor infos ... | padding | data ...
//! pair:        key | type u32 | value
//! tensor info: name | num_dims u32 | dims u64, innermost first | type u32 | offset u64, from the data's start
//! ```

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use super::Value;
use super::reader::Reader;
use super::types::TensorType;
use crate::error::Result;

pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"GGUF");
pub(super) const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMS: u32 = 4;
/// An empty key, a type and a one-byte value.
const MIN_PAIR_BYTES: usize = 8 + 4 + 1;
/// An empty name, no dimensions, type and offset.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 4 + 8;

#[derive(Debug)]
pub struct TensorInfo {
    pub name: String,
    pub kind: TensorType,
    /// Outermost first.
    pub shape: Vec<usize>,
    /// In the file. Empty for types that Ferrule does not run.
    pub range: Range<usize>,
}

/// Key and value pairs in the file's order.
#[derive(Debug, Default)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
    /// Where the file has each pair's type and value.
    ranges: Vec<Range<usize>>,
    by_key: HashMap<String, usize>,
}

impl Metadata {
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|&id| &self.pairs[id].1)
    }

    /// Where the file has a key's type and value.
    pub fn range(&self, key: &str) -> Option<Range<usize>> {
        self.by_key.get(key).map(|&id| self.ranges[id].clone())
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|(key, _)| key.as_str())
    }

    /// False: the key is there already.
    fn insert(&mut self, key: &str, value: Value, range: Range<usize>) -> bool {
        let is_new = self.by_key.insert(key.into(), self.pairs.len()).is_none();
        self.pairs.push((key.into(), value));
        self.ranges.push(range);
        is_new
    }
}

#[derive(Debug)]
pub struct Header {
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    pub fn parse(path: &Path, file: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(path, file);
        check_version(&mut reader)?;
        let num_tensors = reader.count("tensors", MIN_TENSOR_BYTES)?;
        let num_pairs = reader.count("metadata entries", MIN_PAIR_BYTES)?;
        let metadata = parse_metadata(&mut reader, num_pairs)?;
        let mut tensors = parse_tensors(&mut reader, num_tensors)?;
        place_tensors(&reader, &mut tensors, alignment(&reader, &metadata)?, file.len())?;
        let tensors = tensors.into_iter().map(|(tensor, _)| tensor).collect();
        Ok(Self { metadata, tensors })
    }
}

fn check_version(reader: &mut Reader<'_>) -> Result<()> {
    if reader.u32()? != MAGIC {
        return Err(reader.corrupt("this is not a GGUF file: it does not start with 'GGUF'"));
    }
    match reader.u32()? {
        2 | 3 => Ok(()),
        version if matches!(version.swap_bytes(), 1..=3) => {
            Err(reader.unsupported("the file is big-endian; convert it with gguf-convert-endian"))
        }
        version => Err(reader.unsupported(format!("this is GGUF version {version}; versions 2 and 3 are read"))),
    }
}

fn parse_metadata(reader: &mut Reader<'_>, count: usize) -> Result<Metadata> {
    let mut metadata = Metadata::default();
    for _ in 0..count {
        let key = reader.string()?;
        let start = reader.pos();
        let value = reader.value()?;
        if !metadata.insert(key, value, start..reader.pos()) {
            return Err(reader.corrupt(format!("the metadata key '{key}' occurs twice")));
        }
    }
    Ok(metadata)
}

fn alignment(reader: &Reader<'_>, metadata: &Metadata) -> Result<u64> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    match value.as_u64() {
        Some(alignment) if alignment.is_power_of_two() && alignment <= 1 << 30 => Ok(alignment),
        _ => Err(reader.corrupt(format!("general.alignment is {value:?}: a power of two is needed"))),
    }
}

/// Tensors with their offsets from the start of the data.
fn parse_tensors(reader: &mut Reader<'_>, count: usize) -> Result<Vec<(TensorInfo, u64)>> {
    let mut names = HashSet::new();
    let mut tensors = Vec::new();
    for _ in 0..count {
        let name = reader.string()?;
        if !names.insert(name) {
            return Err(reader.corrupt(format!("the tensor '{name}' occurs twice")));
        }
        let shape = parse_shape(reader, name)?;
        let kind = TensorType::from_number(reader.u32()?);
        tensors.push((TensorInfo { name: name.into(), kind, shape, range: 0..0 }, reader.u64()?));
    }
    Ok(tensors)
}

fn parse_shape(reader: &mut Reader<'_>, name: &str) -> Result<Vec<usize>> {
    let num_dims = reader.u32()?;
    if num_dims > MAX_DIMS {
        return Err(
            reader.corrupt(format!("tensor '{name}' has {num_dims} dimensions; at most {MAX_DIMS} are allowed"))
        );
    }
    let mut shape = Vec::new();
    for _ in 0..num_dims {
        let dim = reader.u64()?;
        shape.push(usize::try_from(dim).map_err(|_| reader.corrupt(format!("tensor '{name}' has a side of {dim}")))?);
    }
    shape.reverse();
    Ok(shape)
}

/// Finds each tensor's bytes, which must be aligned and inside the file.
fn place_tensors(
    reader: &Reader<'_>,
    tensors: &mut [(TensorInfo, u64)],
    alignment: u64,
    file_len: usize,
) -> Result<()> {
    let data_start = (reader.pos() as u64).next_multiple_of(alignment);
    for (tensor, offset) in tensors {
        let TensorType::Runs(dtype) = tensor.kind else { continue };
        let name = &tensor.name;
        if *offset % alignment != 0 {
            return Err(reader.corrupt(format!("tensor '{name}' is not aligned to {alignment} bytes")));
        }
        let num_bytes = dtype.num_bytes(&tensor.shape).ok_or_else(|| {
            reader.corrupt(format!("tensor '{name}' has the impossible shape {:?} for {dtype}", tensor.shape))
        })?;
        let start = data_start.checked_add(*offset).and_then(|start| usize::try_from(start).ok());
        let range = start.and_then(|start| Some(start..start.checked_add(num_bytes)?));
        tensor.range = range.filter(|range| range.end <= file_len).ok_or_else(|| {
            reader.corrupt(format!(
                "tensor '{name}' ends past the file's {file_len} bytes: the file is cut short; download it again"
            ))
        })?;
    }
    Ok(())
}
