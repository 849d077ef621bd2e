//! The file: its description, how it is written, and how it is read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::checksum::checksum;
use super::{NamedMatrix, SourceStamp};
use crate::error::{Error, Result};
use crate::kernels::threads::Pool;
use crate::quant::{DType, LAYOUT_VERSION, PackedMatrix};
use crate::weights::MappedFile;

const MAGIC: &[u8; 8] = b"FERRPACK";
const TRAILER_BYTES: usize = 24;
/// A cache line.
const ALIGNMENT: usize = 64;
/// Bytes that have one checksum. Also written at once, and as large as a huge page: file systems that keep what
/// came in one piece in one piece of memory then serve the mapping in huge pages.
const CHUNK_BYTES: usize = 2 << 20;

#[derive(Debug, Serialize, Deserialize)]
struct Description {
    layout_version: u32,
    source: SourceStamp,
    matrices: Vec<Place>,
    /// Bytes of all matrices.
    data_len: usize,
    /// One per `CHUNK_BYTES` of these.
    checksums: Vec<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Place {
    name: String,
    dtype: DType,
    rows: usize,
    cols: usize,
    /// In the file.
    start: usize,
}

/// A packed file, mapped read-only. Processes that map the same one share its memory.
#[derive(Debug)]
pub struct PackedFile {
    file: Arc<MappedFile>,
    description: Description,
    by_name: HashMap<String, usize>,
}

impl PackedFile {
    /// Maps the file if it was made from this state of the source, in today's layout. Its matrices are not
    /// looked at: see `is_intact`.
    pub fn open(path: &Path, source: &SourceStamp) -> Result<Self> {
        let file = MappedFile::open(path)?;
        let description = read_description(&file).ok_or_else(|| Error::corrupt(path, "it has no sound description"))?;
        if description.layout_version != LAYOUT_VERSION || description.source != *source {
            return Err(Error::corrupt(path, "it was made from another source or by another version"));
        }
        file.advise_huge_pages();
        let by_name = description.matrices.iter().enumerate().map(|(id, place)| (place.name.clone(), id)).collect();
        Ok(Self { file: Arc::new(file), description, by_name })
    }

    /// Whether every byte is what was written; reads all of them.
    pub fn is_intact(&self, pool: &Pool) -> Result<bool> {
        let data = &self.file.bytes()[..self.description.data_len];
        let sums = &self.description.checksums;
        let damaged = AtomicBool::new(false);
        pool.run(&|lane| {
            let share = lane.share(sums.len());
            let mut chunks = data.chunks(CHUNK_BYTES).zip(sums).skip(share.start).take(share.len());
            if chunks.any(|(chunk, &sum)| checksum(chunk) != sum) {
                damaged.store(true, Ordering::Relaxed);
            }
        })?;
        Ok(!damaged.into_inner())
    }

    /// The matrix of that name. None: it is not there, or has another type or shape.
    pub fn matrix(&self, name: &str, dtype: DType, rows: usize, cols: usize) -> Option<PackedMatrix> {
        let place = &self.description.matrices[*self.by_name.get(name)?];
        if (place.dtype, place.rows, place.cols) != (dtype, rows, cols) {
            return None;
        }
        PackedMatrix::mapped(&self.file, place.start, dtype, rows, cols)
    }
}

/// What the file says of itself, if that is whole and fits the file.
fn read_description(file: &MappedFile) -> Option<Description> {
    let (rest, trailer) = file.bytes().split_last_chunk::<TRAILER_BYTES>()?;
    let (numbers, magic) = trailer.split_last_chunk::<8>()?;
    let [len, sum] = [0, 8].map(|at| u64::from_le_bytes(numbers[at..at + 8].try_into().expect("8 of 16 bytes")));
    let (data, text) = rest.split_at_checked(rest.len().checked_sub(usize::try_from(len).ok()?)?)?;
    if magic != MAGIC || checksum(text) != sum {
        return None;
    }
    let description: Description = serde_json::from_slice(text).ok()?;
    let num_chunks = description.data_len.div_ceil(CHUNK_BYTES);
    (description.data_len == data.len() && description.checksums.len() == num_chunks).then_some(description)
}

/// Writes a packed file, and waits until the disk has it.
pub(super) fn write(file: File, source: &SourceStamp, matrices: &[NamedMatrix]) -> io::Result<()> {
    let mut out = ChunkWriter { file, chunk: Vec::with_capacity(CHUNK_BYTES), checksums: Vec::new() };
    let mut places = Vec::with_capacity(matrices.len());
    for NamedMatrix { name, matrix } in matrices {
        let start = out.align()?;
        places.push(Place {
            name: name.clone(),
            dtype: matrix.dtype(),
            rows: matrix.rows(),
            cols: matrix.cols(),
            start,
        });
        out.write(matrix.bytes())?;
    }
    let data_len = out.position();
    out.flush()?;
    let ChunkWriter { mut file, checksums, .. } = out;
    let description =
        Description { layout_version: LAYOUT_VERSION, source: source.clone(), matrices: places, data_len, checksums };
    let text = serde_json::to_vec(&description)?;
    let [len, sum] = [text.len() as u64, checksum(&text)].map(u64::to_le_bytes);
    file.write_all(&[&text[..], &len, &sum, MAGIC].concat())?;
    file.sync_all()
}

/// Gathers bytes to whole chunks.
struct ChunkWriter {
    file: File,
    /// Not written yet.
    chunk: Vec<u8>,
    /// One per chunk that was written.
    checksums: Vec<u64>,
}

impl ChunkWriter {
    fn position(&self) -> usize {
        self.checksums.len() * CHUNK_BYTES + self.chunk.len()
    }

    /// Fills up to where a matrix may start, and returns where that is.
    fn align(&mut self) -> io::Result<usize> {
        let gap = self.position().next_multiple_of(ALIGNMENT) - self.position();
        self.write(&[0; ALIGNMENT][..gap])?;
        Ok(self.position())
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.checksums.push(checksum(&self.chunk));
            self.file.write_all(&self.chunk)?;
            self.chunk.clear();
        }
        Ok(())
    }
}
