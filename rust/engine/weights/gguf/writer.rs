//! Writes GGUF version 3, tensor by tensor.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::header::{DEFAULT_ALIGNMENT, MAGIC};
use super::types;
use crate::error::{Error, Result};
use crate::quant::DType;

const VERSION: u32 = 3;

/// Numbers of value types.
mod kind {
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const TEXT: u32 = 8;
    pub const ARRAY: u32 = 9;
}

/// Metadata in its written form.
#[derive(Debug, Clone, Default)]
pub struct Pairs {
    count: u64,
    bytes: Vec<u8>,
}

impl Pairs {
    /// `value` is a type and a value as another file has them.
    pub fn raw(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.count += 1;
        push_text(&mut self.bytes, key);
        self.bytes.extend_from_slice(value);
        self
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.single(key, kind::U32, &value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.single(key, kind::F32, &value.to_le_bytes())
    }

    pub fn flag(&mut self, key: &str, value: bool) -> &mut Self {
        self.single(key, kind::BOOL, &[value.into()])
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        let mut bytes = Vec::new();
        push_text(&mut bytes, value);
        self.single(key, kind::TEXT, &bytes)
    }

    pub fn texts<'a>(&mut self, key: &str, values: impl ExactSizeIterator<Item = &'a str>) -> &mut Self {
        self.array(key, kind::TEXT, values, push_text)
    }

    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        self.array(key, kind::I32, values.iter(), |bytes, value| bytes.extend(value.to_le_bytes()))
    }

    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        self.array(key, kind::F32, values.iter(), |bytes, value| bytes.extend(value.to_le_bytes()))
    }

    fn single(&mut self, key: &str, kind: u32, value: &[u8]) -> &mut Self {
        self.raw(key, &[&kind.to_le_bytes(), value].concat())
    }

    fn array<T>(
        &mut self,
        key: &str,
        kind: u32,
        values: impl ExactSizeIterator<Item = T>,
        push: impl Fn(&mut Vec<u8>, T),
    ) -> &mut Self {
        let mut bytes = [kind::ARRAY, kind].map(u32::to_le_bytes).concat();
        bytes.extend((values.len() as u64).to_le_bytes());
        values.for_each(|value| push(&mut bytes, value));
        self.raw(key, &bytes)
    }
}

fn push_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTensor {
    pub name: String,
    /// One that GGUF has.
    pub dtype: DType,
    /// Outermost first; rows are whole blocks.
    pub shape: Vec<usize>,
}

impl NewTensor {
    pub fn num_bytes(&self) -> usize {
        self.dtype.num_bytes(&self.shape).expect("rows are whole blocks")
    }
}

/// A file on its way. It gets its name when it is whole; one that is dropped before leaves nothing, if it was not to stay.
#[derive(Debug)]
pub struct GgufWriter {
    out: BufWriter<File>,
    path: PathBuf,
    unfinished: PathBuf,
    /// Bytes of the tensors to come, the next one last.
    sizes: Vec<usize>,
    stays: bool,
}

impl GgufWriter {
    /// Writes the header. Tensors follow in this order, aligned to 32 bytes.
    pub fn create(path: &Path, metadata: &Pairs, tensors: &[NewTensor]) -> Result<Self> {
        let unfinished = unfinished(path);
        let file = File::create(&unfinished).map_err(|err| Error::io(&unfinished, err))?;
        let mut writer = Self::new(path, file, tensors);
        writer.write_aligned(&header(metadata, tensors))?;
        Ok(writer)
    }

    /// Goes on with what a writer of the same file has left that was dropped, or whose process ended, after it had synced
    /// `num_written` tensors: it has those already. What is not there is begun. It stays when this writer is dropped.
    pub fn resume(path: &Path, metadata: &Pairs, tensors: &[NewTensor], num_written: usize) -> Result<(Self, usize)> {
        let header = header(metadata, tensors);
        let written: usize = tensors.iter().take(num_written).map(|tensor| aligned(tensor.num_bytes())).sum();
        let file = left(&unfinished(path), &header, aligned(header.len()) + written);
        let (mut writer, num_written) = match file {
            Some(file) => (Self::new(path, file, &tensors[num_written..]), num_written),
            None => (Self::create(path, metadata, tensors)?, 0),
        };
        writer.stays = true;
        Ok((writer, num_written))
    }

    fn new(path: &Path, file: File, tensors: &[NewTensor]) -> Self {
        let sizes = tensors.iter().rev().map(NewTensor::num_bytes).collect();
        let out = BufWriter::with_capacity(1 << 20, file);
        Self { out, path: path.into(), unfinished: unfinished(path), sizes, stays: false }
    }

    /// Waits until the disk has what was written.
    pub fn sync(&mut self) -> Result<()> {
        let outcome = self.out.flush().and_then(|()| self.out.get_ref().sync_data());
        outcome.map_err(|err| Error::io(&self.unfinished, err))
    }

    /// All bytes of the next tensor.
    pub fn write(&mut self, tensor: &[u8]) -> Result<()> {
        let expected = self.sizes.pop();
        assert_eq!(expected, Some(tensor.len()), "bytes of the next tensor of {}", self.path.display());
        self.write_aligned(tensor)
    }

    /// Waits until the disk has the file, and gives it its name.
    pub fn finish(mut self) -> Result<()> {
        assert!(self.sizes.is_empty(), "{} has tensors that were not written", self.path.display());
        let outcome = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        outcome.and_then(|()| fs::rename(&self.unfinished, &self.path)).map_err(|err| Error::io(&self.path, err))
    }

    fn write_aligned(&mut self, bytes: &[u8]) -> Result<()> {
        let padding = aligned(bytes.len()) - bytes.len();
        let outcome: io::Result<()> =
            self.out.write_all(bytes).and_then(|()| self.out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..padding]));
        outcome.map_err(|err| Error::io(&self.unfinished, err))
    }
}

impl Drop for GgufWriter {
    fn drop(&mut self) {
        if !self.stays {
            // It is there only if `finish` did not rename it, and nobody can use it.
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

fn aligned(num_bytes: usize) -> usize {
    num_bytes.next_multiple_of(DEFAULT_ALIGNMENT as usize)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".unfinished");
    path.with_file_name(name)
}

/// The file, cut after `len` bytes. None: it is not there, too short, or another one.
fn left(path: &Path, header: &[u8], len: usize) -> Option<File> {
    let mut file = OpenOptions::new().read(true).write(true).open(path).ok()?;
    let mut found = vec![0; header.len()];
    file.read_exact(&mut found).ok()?;
    let is_whole = found == header && file.metadata().ok()?.len() >= len as u64;
    is_whole.then_some(())?;
    file.set_len(len as u64).and_then(|()| file.seek(SeekFrom::End(0))).ok()?;
    Some(file)
}

fn header(metadata: &Pairs, tensors: &[NewTensor]) -> Vec<u8> {
    let mut bytes = [MAGIC, VERSION].map(u32::to_le_bytes).concat();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(metadata.count.to_le_bytes());
    bytes.extend_from_slice(&metadata.bytes);
    let mut offset = 0;
    for tensor in tensors {
        push_text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&dim| bytes.extend((dim as u64).to_le_bytes()));
        let number = types::number(tensor.dtype).expect("a type that GGUF has");
        bytes.extend(number.to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset += aligned(tensor.num_bytes());
    }
    bytes
}
