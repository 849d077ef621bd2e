//! Bounds-checked reading of GGUF's little-endian primitives and values.

use std::path::Path;

use super::{Strings, Value};
use crate::error::{Error, Result};

/// A position in foreign bytes. Nothing is allocated before the bytes that it stands for were seen to exist.
pub struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, pos: 0 }
    }

    pub fn pos(&self) -> usize {
        self.pos
    }

    pub fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(self.path, what)
    }

    pub fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::unsupported(self.path, what)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.pos..];
        if len > rest.len() {
            return Err(self.corrupt(format!(
                "the header ends early: {len} bytes wanted at byte {}, {} are left; download the file again",
                self.pos,
                rest.len()
            )));
        }
        self.pos += len;
        Ok(&rest[..len])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("take gives N bytes"))
    }

    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `min_bytes` each, so that it cannot exceed what the file holds.
    pub fn count(&mut self, what: &str, min_bytes: usize) -> Result<usize> {
        let count = self.u64()?;
        let most = (self.bytes.len() - self.pos) / min_bytes;
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(self.corrupt(format!("{count} {what} at byte {} cannot fit in the file", self.pos - 8))),
        }
    }

    pub fn string(&mut self) -> Result<&'a str> {
        let len = self.count("bytes of text", 1)?;
        let start = self.pos;
        let bytes = self.take(len)?;
        std::str::from_utf8(bytes).map_err(|_| self.corrupt(format!("the text at byte {start} is not UTF-8")))
    }

    pub fn value(&mut self) -> Result<Value> {
        let kind = self.u32()?;
        Ok(match kind {
            0 => Value::U64(u8::from_le_bytes(self.array()?).into()),
            1 => Value::I64(i8::from_le_bytes(self.array()?).into()),
            2 => Value::U64(u16::from_le_bytes(self.array()?).into()),
            3 => Value::I64(i16::from_le_bytes(self.array()?).into()),
            4 => Value::U64(self.u32()?.into()),
            5 => Value::I64(i32::from_le_bytes(self.array()?).into()),
            6 => Value::F64(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::String(self.string()?.into()),
            9 => self.values()?,
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            _ => return Err(self.corrupt(format!("unknown value type {kind} at byte {}", self.pos - 4))),
        })
    }

    /// An array value: element type, count, elements.
    fn values(&mut self) -> Result<Value> {
        let kind = self.u32()?;
        Ok(match kind {
            0 => Value::Ints(self.numbers(|b| u8::from_le_bytes(b).into())?),
            1 => Value::Ints(self.numbers(|b| i8::from_le_bytes(b).into())?),
            2 => Value::Ints(self.numbers(|b| u16::from_le_bytes(b).into())?),
            3 => Value::Ints(self.numbers(|b| i16::from_le_bytes(b).into())?),
            4 => Value::Ints(self.numbers(|b| u32::from_le_bytes(b).into())?),
            5 => Value::Ints(self.numbers(|b| i32::from_le_bytes(b).into())?),
            6 => Value::Floats(self.numbers(f32::from_le_bytes)?),
            7 => Value::Bools(self.numbers(|b: [u8; 1]| b != [0])?),
            8 => Value::Strings(self.strings()?),
            9 => return Err(self.unsupported("arrays of arrays in the metadata are not read")),
            10 => Value::Ints(self.unsigned()?),
            11 => Value::Ints(self.numbers(i64::from_le_bytes)?),
            12 => Value::Floats(self.numbers(|b| f64::from_le_bytes(b) as f32)?),
            _ => return Err(self.corrupt(format!("unknown array type {kind} at byte {}", self.pos - 4))),
        })
    }

    fn numbers<T, const N: usize>(&mut self, decode: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
        let count = self.count("array elements", N)?;
        let (chunks, _) = self.take(count * N)?.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| decode(chunk)).collect())
    }

    fn unsigned(&mut self) -> Result<Vec<i64>> {
        let numbers = self.numbers(u64::from_le_bytes)?;
        let signed = numbers.into_iter().map(i64::try_from).collect::<Result<_, _>>();
        signed.map_err(|_| self.corrupt("an array has a number above 2^63"))
    }

    fn strings(&mut self) -> Result<Strings> {
        let count = self.count("strings", 8)?;
        let start = self.pos;
        let (mut bytes, mut ends) = (Vec::with_capacity(8 * count), Vec::with_capacity(count));
        for _ in 0..count {
            let len = self.count("bytes of text", 1)?;
            bytes.extend_from_slice(self.take(len)?);
            ends.push(bytes.len());
        }
        let strings = Strings::from_parts(bytes, ends);
        strings.ok_or_else(|| self.corrupt(format!("a text of the array at byte {start} is not UTF-8")))
    }
}
