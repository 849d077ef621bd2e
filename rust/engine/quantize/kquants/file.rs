//! From a GGUF file to one in another mixture of types.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::certificate;
use super::encode_row;
use super::mixture::{Mixture, Shape, fallback};
use crate::error::{Error, Result};
use crate::quant::{DType, dequantize};
use crate::weights::{Checkpoint, Gguf, GgufWriter, NewTensor, Pairs, TensorView, Value};

/// Version of the block types' layouts, which `general.quantization_version` names.
const QUANTIZATION_VERSION: u32 = 2;

/// For a tensor by its name, what squared errors in each column count: for each of its matrices, if it has several.
pub type Importance = HashMap<String, Vec<f32>>;

/// What is to be made of a file.
#[derive(Debug)]
pub struct Plan {
    mixture: &'static Mixture,
    /// In the source's order.
    pub tensors: Vec<NewTensor>,
    /// Names of tensors that have another type than the mixture asks for, because of their width.
    pub fallbacks: Vec<String>,
}

impl Plan {
    /// `weighted`: columns will have an importance.
    pub fn new(source: &Gguf, mixture: &'static Mixture, weighted: bool) -> Result<Self> {
        let tied = source.find("output.weight").is_none();
        let num_experts = count(source, "expert_count")?.unwrap_or(0);
        let missing = || Error::corrupt(source.path(), "the metadata has no block_count");
        let num_layers = count(source, "block_count")?.ok_or_else(missing)?;
        let shape = Shape { num_layers, num_experts, tied, weighted };
        let mut plan = Self { mixture, tensors: Vec::new(), fallbacks: Vec::new() };
        for name in source.tensor_names() {
            let view = source.tensor(name)?;
            let dtype = match is_matrix(&view) {
                true => plan.dtype(&view, shape),
                false => view.dtype,
            };
            plan.tensors.push(NewTensor { name: name.into(), dtype, shape: view.shape });
        }
        Ok(plan)
    }

    fn dtype(&mut self, view: &TensorView<'_>, shape: Shape) -> DType {
        let wanted = self.mixture.dtype(view.name, shape);
        let dtype = fallback(wanted, view.shape.last().copied().unwrap_or(0));
        if dtype != wanted {
            self.fallbacks.push(view.name.into());
        }
        dtype
    }

    pub fn num_bytes(&self) -> usize {
        self.tensors.iter().map(NewTensor::num_bytes).sum()
    }

    /// Begins the file, or goes on with one that was begun and has `num_written` tensors.
    pub fn begin(&self, source: &Gguf, target: &Path, num_written: usize) -> Result<Begun<'_>> {
        let (writer, num_written) = GgufWriter::resume(target, &self.metadata(source), &self.tensors, num_written)?;
        Ok(Begun { plan: self, writer, num_written })
    }

    /// The source's, but for what tells how the tensors lie in the file.
    fn metadata(&self, source: &Gguf) -> Pairs {
        const OWN: [&str; 4] =
            ["general.file_type", "general.quantization_version", "general.alignment", certificate::KEY];
        let mut pairs = Pairs::default();
        for key in source.keys().filter(|key| !OWN.contains(key)) {
            pairs.raw(key, source.raw(key).expect("the key is the file's own"));
        }
        pairs.u32("general.file_type", self.mixture.file_type);
        pairs.u32("general.quantization_version", QUANTIZATION_VERSION);
        pairs
    }
}

/// A file on its way, which stays when it is dropped.
pub struct Begun<'a> {
    plan: &'a Plan,
    writer: GgufWriter,
    num_written: usize,
}

impl Begun<'_> {
    /// Tensors that it does not have yet.
    pub fn num_left(&self) -> usize {
        self.plan.tensors.len() - self.num_written
    }

    /// Writes the rest. `on_tensor` hears how many tensors the disk has, after each.
    pub fn finish(
        mut self,
        source: &Gguf,
        importance: &Importance,
        threads: usize,
        on_tensor: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        for tensor in &self.plan.tensors[self.num_written..] {
            let view = source.tensor(&tensor.name)?;
            match view.dtype == tensor.dtype {
                true => self.writer.write(&view.bytes)?,
                false => {
                    let importance = importance.get(&tensor.name).map(Vec::as_slice);
                    let encoded = encode(&view, tensor.dtype, importance, threads);
                    self.writer.write(&encoded.ok_or_else(|| not_finite(source.path(), &tensor.name))?)?;
                }
            }
            source.release(&tensor.name);
            self.writer.sync()?;
            self.num_written += 1;
            on_tensor(self.num_written)?;
        }
        self.writer.finish()
    }
}

/// The same file with one more text in its metadata.
pub fn copy_with(source: &Gguf, target: &Path, key: &str, text: &str) -> Result<()> {
    let mut pairs = Pairs::default();
    for key in source.keys() {
        pairs.raw(key, source.raw(key).expect("the key is the file's own"));
    }
    pairs.text(key, text);
    let views: Vec<TensorView<'_>> =
        source.tensor_names().into_iter().map(|name| source.tensor(name)).collect::<Result<_>>()?;
    let tensor =
        |view: &TensorView<'_>| NewTensor { name: view.name.into(), dtype: view.dtype, shape: view.shape.clone() };
    let mut writer = GgufWriter::create(target, &pairs, &views.iter().map(tensor).collect::<Vec<_>>())?;
    for view in &views {
        writer.write(&view.bytes)?;
        source.release(view.name);
    }
    writer.finish()
}

/// Matrices are quantized, also those of all experts in one tensor. Vectors are not, nor are routers: they are small, and what
/// they pick changes by leaps.
fn is_matrix(view: &TensorView<'_>) -> bool {
    (2..=3).contains(&view.shape.len()) && view.name.ends_with(".weight") && !view.name.ends_with("ffn_gate_inp.weight")
}

/// A count below the architecture's name.
fn count(source: &Gguf, key: &str) -> Result<Option<usize>> {
    let arch = source.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
    let Some(value) = source.get(&format!("{arch}.{key}")) else { return Ok(None) };
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
    count.map(Some).ok_or_else(|| Error::corrupt(source.path(), format!("{arch}.{key} in the metadata is not a count")))
}

fn not_finite(path: &Path, name: &str) -> Error {
    Error::corrupt(path, format!("tensor '{name}' has a number that is not finite"))
}

/// A matrix in another type, its rows shared among threads. None: one of its numbers is not finite.
fn encode(view: &TensorView<'_>, dtype: DType, importance: Option<&[f32]>, threads: usize) -> Option<Vec<u8>> {
    let Some((&cols, outer)) = view.shape.split_last() else { panic!("'{}' is no matrix", view.name) };
    let (rows, num_matrices) = (outer.iter().product::<usize>(), importance.map_or(1, |all| all.len() / cols));
    let (from, to) = [view.dtype, dtype].map(|dtype| dtype.row_bytes(cols).expect("rows are whole blocks")).into();
    let mut out = vec![0; rows * to];
    let is_finite = AtomicBool::new(true);
    let encode_part = |first: usize, bytes: &[u8], out: &mut [u8]| {
        let mut row = vec![0.0; cols];
        for (i, (bytes, out)) in bytes.chunks_exact(from).zip(out.chunks_exact_mut(to)).enumerate() {
            let importance = importance.map(|all| &all[(first + i) / (rows / num_matrices) * cols..][..cols]);
            dequantize(view.dtype, bytes, &mut row);
            match row.iter().all(|x| x.is_finite()) {
                true => encode_row(dtype, &row, importance, out),
                false => is_finite.store(false, Ordering::Relaxed),
            }
        }
    };
    let part = rows.div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        for (i, (bytes, out)) in view.bytes.chunks(part * from).zip(out.chunks_mut(part * to)).enumerate() {
            let encode_part = &encode_part;
            scope.spawn(move || encode_part(i * part, bytes, out));
        }
    });
    is_finite.into_inner().then_some(out)
}
