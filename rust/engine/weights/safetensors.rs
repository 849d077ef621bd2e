//! Hugging Face folders: model.safetensors, or shards named by model.safetensors.index.json.

mod header;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use self::header::TensorInfo;
use super::mmap::MappedFile;
use super::{Checkpoint, TensorView};
use crate::error::{Error, Result};
use crate::quant::DType;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The memory-mapped shards of a folder.
#[derive(Debug)]
pub struct SafetensorsDir {
    dir: PathBuf,
    shards: Vec<MappedFile>,
    /// In the files' order, with the shard of each.
    tensors: Vec<(usize, TensorInfo)>,
    by_name: HashMap<String, usize>,
}

/// The file that says which shard has which tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

impl SafetensorsDir {
    pub fn open(dir: &Path) -> Result<Self> {
        let mut opened = Self { dir: dir.into(), shards: Vec::new(), tensors: Vec::new(), by_name: HashMap::new() };
        if dir.join(SINGLE).is_file() {
            opened.add_shard(&dir.join(SINGLE))?;
        } else if dir.join(INDEX).is_file() {
            opened.add_shards(&dir.join(INDEX))?;
        } else {
            return Err(Error::ModelNotFound(format!("{} has neither {SINGLE} nor {INDEX}", dir.display())));
        }
        Ok(opened)
    }

    /// A single file, whatever its name.
    pub fn open_file(path: &Path) -> Result<Self> {
        let dir = path.parent().unwrap_or(path);
        let mut opened = Self { dir: dir.into(), shards: Vec::new(), tensors: Vec::new(), by_name: HashMap::new() };
        opened.add_shard(path)?;
        Ok(opened)
    }

    fn add_shards(&mut self, index_path: &Path) -> Result<()> {
        let text = std::fs::read(index_path).map_err(|err| Error::io(index_path, err))?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|err| Error::corrupt(index_path, format!("this is no index of shards: {err}")))?;
        let mut names: Vec<&String> = index.weight_map.values().collect();
        names.sort();
        names.dedup();
        for name in names {
            self.add_shard(&shard_path(&self.dir, index_path, name)?)?;
        }
        match index.weight_map.keys().find(|name| !self.by_name.contains_key(*name)) {
            Some(name) => Err(Error::corrupt(index_path, format!("no shard has the tensor '{name}'"))),
            None => Ok(()),
        }
    }

    fn add_shard(&mut self, path: &Path) -> Result<()> {
        let file = MappedFile::open(path)?;
        for tensor in header::parse(path, file.bytes())? {
            let Entry::Vacant(entry) = self.by_name.entry(tensor.name.clone()) else {
                return Err(Error::corrupt(path, format!("the tensor '{}' occurs twice", tensor.name)));
            };
            entry.insert(self.tensors.len());
            self.tensors.push((self.shards.len(), tensor));
        }
        self.shards.push(file);
        Ok(())
    }
}

/// The shard that the index names, which must lie in the folder itself.
fn shard_path(dir: &Path, index_path: &Path, name: &str) -> Result<PathBuf> {
    if Path::new(name).file_name() != Some(name.as_ref()) {
        return Err(Error::corrupt(index_path, format!("the shard '{name}' is no plain file name")));
    }
    let path = dir.join(name);
    match path.is_file() {
        true => Ok(path),
        false => Err(Error::corrupt(index_path, format!("the shard '{name}' is missing; download the folder again"))),
    }
}

/// A tensor of any type, as the file has it.
#[derive(Debug, Clone, Copy)]
pub struct RawTensor<'a> {
    /// Safetensors' own name of the type.
    pub dtype: &'a str,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl SafetensorsDir {
    pub fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        let (shard, tensor) = &self.tensors[*self.by_name.get(name)?];
        let dtype = tensor.dtype.map_or_else(|other| other, DType::name);
        Some(RawTensor { dtype, shape: &tensor.shape, bytes: &self.shards[*shard].bytes()[tensor.range.clone()] })
    }
}

impl Checkpoint for SafetensorsDir {
    fn path(&self) -> &Path {
        &self.dir
    }

    fn files(&self) -> Vec<&Path> {
        self.shards.iter().map(MappedFile::path).collect()
    }

    fn tensor_names(&self) -> Vec<&str> {
        self.tensors.iter().map(|(_, tensor)| tensor.name.as_str()).collect()
    }

    /// None also for a tensor whose type Ferrule cannot read; `tensor` says so.
    fn find(&self, name: &str) -> Option<TensorView<'_>> {
        let (shard, tensor) = &self.tensors[*self.by_name.get(name)?];
        let bytes = &self.shards[*shard].bytes()[tensor.range.clone()];
        Some(TensorView {
            name: &tensor.name,
            dtype: tensor.dtype.ok()?,
            shape: tensor.shape.clone(),
            bytes: bytes.into(),
        })
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        if let Some(view) = self.find(name) {
            return Ok(view);
        }
        let Some(&id) = self.by_name.get(name) else {
            return Err(Error::corrupt(self.path(), format!("tensor '{name}' is missing")));
        };
        let (shard, tensor) = &self.tensors[id];
        let kind = tensor.dtype.err().unwrap_or_default();
        let what = format!("tensor '{name}' is {kind}, which Ferrule cannot run; F32, F16 and BF16 run");
        Err(Error::unsupported(self.shards[*shard].path(), what))
    }

    fn note(&self, key: &str) -> Option<String> {
        self.shards.iter().find_map(|shard| header::metadata(shard.path(), shard.bytes()).ok()?.remove(key))
    }

    /// Of a tensor of any type.
    fn release(&self, name: &str) {
        if let Some(&id) = self.by_name.get(name) {
            let (shard, tensor) = &self.tensors[id];
            self.shards[*shard].release(&self.shards[*shard].bytes()[tensor.range.clone()]);
        }
    }
}
