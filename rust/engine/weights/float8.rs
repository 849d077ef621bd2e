//! Folders of matrices that are floats of eight bits (E4M3): Hugging Face's `fp8` and compressed-tensors'
//! `float-quantized`. A weight is its float times a scale of the tensor, of the row, or of a block of both.

use std::collections::HashMap;

use half::{bf16, f16};
use serde_json::Value;

use super::overlay::Overlay;
use super::rows::{PanelRows, RowSource, make_rows};
use super::safetensors::RawTensor;
use super::{Checkpoint, SafetensorsDir, TensorInfo};
use crate::error::{Error, Result};
use crate::quant::DType;

/// What names end with that are parts of a matrix, or tell how its input was to be rounded.
const PARTS: &[&str] = &[
    "weight_scale",
    "weight_scale_inv",
    "input_scale",
    "input_scale_ub",
    "activation_scale",
    "k_scale",
    "v_scale",
    "output_scale",
];

/// A quantized folder. Its matrices are converted when they are read.
#[derive(Debug)]
pub struct Float8Dir {
    folder: SafetensorsDir,
    names: Vec<String>,
    matrices: HashMap<String, Matrix>,
}

#[derive(Debug)]
struct Matrix {
    rows: usize,
    cols: usize,
    scale_name: String,
    /// Rows and columns that share a scale.
    block: [usize; 2],
}

impl Float8Dir {
    /// Whether `config`, a folder's `quantization_config`, says that this is one.
    pub fn is_meant(config: &Value) -> bool {
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default();
        match text("quant_method") {
            "fp8" | "fbgemm_fp8" => true,
            "compressed-tensors" => text("format") == "float-quantized",
            _ => false,
        }
    }

    pub fn new(folder: SafetensorsDir, config: &Value) -> Result<Self> {
        let block = block_of(config);
        let is_part = |name: &str| name.rsplit_once('.').is_some_and(|(_, part)| PARTS.contains(&part));
        let names: Vec<String> =
            folder.tensor_names().into_iter().filter(|name| !is_part(name)).map(str::to_owned).collect();
        let mut matrices = HashMap::new();
        for name in &names {
            if let Some(tensor) = folder.raw(name).filter(|tensor| tensor.dtype == "F8_E4M3") {
                matrices.insert(name.clone(), Matrix::find(&folder, name, tensor.shape, block)?);
            }
        }
        Ok(Self { folder, names, matrices })
    }
}

/// The rows and columns of a block that shares a scale, if the configuration has such.
fn block_of(config: &Value) -> Option<[usize; 2]> {
    let groups = config.get("config_groups").and_then(Value::as_object);
    let weights = groups.and_then(|groups| groups.values().next()).and_then(|group| group.get("weights"));
    let of_group = weights.and_then(|weights| weights.get("block_structure"));
    let [rows, cols] = config.get("weight_block_size").or(of_group)?.as_array()?.as_slice() else { return None };
    let block = [rows.as_u64()? as usize, cols.as_u64()? as usize];
    (!block.contains(&0)).then_some(block)
}

impl Matrix {
    fn find(folder: &SafetensorsDir, name: &str, shape: &[usize], block: Option<[usize; 2]>) -> Result<Self> {
        let corrupt = |what: String| Error::corrupt(folder.path(), format!("'{name}' {what}"));
        let (&[rows, cols], false) = (shape, shape.contains(&0)) else {
            return Err(corrupt(format!("has the shape {shape:?}")));
        };
        let names = ["_scale", "_scale_inv"].map(|suffix| format!("{name}{suffix}"));
        let Some((scale_name, scales)) = names.into_iter().find_map(|name| folder.raw(&name).map(|raw| (name, raw)))
        else {
            return Err(corrupt("has no scales".into()));
        };
        let by_block =
            |[rows_of, cols_of]: [usize; 2]| scales.shape == [rows.div_ceil(rows_of), cols.div_ceil(cols_of)];
        let block = match scales.shape {
            [] | [1] | [1, 1] => Some([rows, cols]),
            [n] | [n, 1] if *n == rows => Some([1, cols]),
            _ => block.filter(|&block| by_block(block)),
        };
        let Some(block) = block.filter(|_| matches!(scales.dtype, "F32" | "F16" | "BF16")) else {
            return Err(corrupt(format!("has scales of type {} and shape {:?}", scales.dtype, scales.shape)));
        };
        let share = DType::F8_E4M3.block_len();
        if !cols.is_multiple_of(share) || !block[1].is_multiple_of(share) {
            let what = format!("'{name}' has {cols} columns in blocks of {}: whole groups of {share} run", block[1]);
            return Err(Error::unsupported(folder.path(), what));
        }
        Ok(Self { rows, cols, scale_name, block })
    }
}

struct Converted<'a> {
    name: &'a str,
    matrix: &'a Matrix,
    /// (rows, cols)
    codes: &'a [u8],
    scales: RawTensor<'a>,
}

impl Converted<'_> {
    fn has_numbers_only(&self) -> bool {
        let Matrix { rows, cols, block: [rows_of, cols_of], .. } = *self.matrix;
        let mut starts =
            (0..rows).step_by(rows_of).flat_map(|row| (0..cols).step_by(cols_of).map(move |col| (row, col)));
        starts.all(|(row, col)| self.scale(row, col).is_finite()) && self.codes.iter().all(|code| code & 0x7f != 0x7f)
    }

    fn scale(&self, row: usize, col: usize) -> f32 {
        let [rows_of, cols_of] = self.matrix.block;
        let at = row / rows_of * self.matrix.cols.div_ceil(cols_of) + col / cols_of;
        let bytes = self.scales.bytes;
        let two = |at: usize| [bytes[2 * at], bytes[2 * at + 1]];
        match self.scales.dtype {
            "F32" => f32::from_le_bytes([bytes[4 * at], bytes[4 * at + 1], bytes[4 * at + 2], bytes[4 * at + 3]]),
            "F16" => f16::from_le_bytes(two(at)).to_f32(),
            _ => bf16::from_le_bytes(two(at)).to_f32(),
        }
    }

    fn write_row(&self, row: usize, out: &mut [u8]) {
        let (cols, len) = (self.matrix.cols, DType::F8_E4M3.block_len());
        let codes = self.codes[row * cols..][..cols].chunks_exact(len);
        for (b, (codes, block)) in codes.zip(out.chunks_exact_mut(DType::F8_E4M3.block_bytes())).enumerate() {
            block[..4].copy_from_slice(&self.scale(row, b * len).to_le_bytes());
            block[4..].copy_from_slice(codes);
        }
    }
}

impl RowSource for Converted<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn dtype(&self) -> DType {
        DType::F8_E4M3
    }

    fn cols(&self) -> usize {
        self.matrix.cols
    }

    fn read<'a>(&'a self, rows: &[usize], buffer: &'a mut Vec<u8>) -> PanelRows<'a> {
        let row_bytes = self.row_bytes();
        make_rows(rows.len(), row_bytes, buffer, |out| {
            rows.iter().zip(out.chunks_exact_mut(row_bytes)).for_each(|(&row, out)| self.write_row(row, out));
        })
    }
}

impl Overlay for Float8Dir {
    fn under(&self) -> &dyn Checkpoint {
        &self.folder
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn converted_info(&self, name: &str) -> Option<TensorInfo> {
        let Matrix { rows, cols, .. } = *self.matrices.get(name)?;
        Some(TensorInfo { dtype: DType::F8_E4M3, shape: vec![rows, cols] })
    }

    fn converted(&self, name: &str) -> Result<(&str, Box<dyn RowSource + '_>)> {
        let (name, matrix) = self.matrices.get_key_value(name).expect("a matrix of these floats");
        let raw = |name: &str| self.folder.raw(name).expect("it was there when the folder was opened");
        let converted = Converted { name, matrix, codes: raw(name).bytes, scales: raw(&matrix.scale_name) };
        match converted.has_numbers_only() {
            true => Ok((name, Box::new(converted))),
            false => {
                Err(Error::corrupt(self.folder.path(), format!("'{name}' has a weight or a scale that is no number")))
            }
        }
    }
}
