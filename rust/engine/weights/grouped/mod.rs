//! Folders of matrices whose rows are quantized in groups of columns: GPTQ, AWQ, compressed-tensors. Their tensors read
//! as one matrix `weight` of a block type ([`DType::I4G128`] and its kin, [`DType::U8G32`], or Q8_0), without loss but for
//! scales that are bf16 or f32 and no f16; or of [`DType::I8_ROW`], where rows have one scale each and inputs are meant to be
//! int8.
//!
//! With K columns, N rows, G groups and P codes in a word of 32 bits (8 of four bits, or 4 of eight):
//!
//! ```text
//! GPTQ        qweight [K/P, N]         qzeros [G, N/P]                     scales [G, N]         g_idx [K]
//! AWQ         qweight [K, N/P]         qzeros [G, N/P]                     scales [G, N]
//! packed      weight_packed [N, K/P]   weight_zero_point [N/P, G] or none  weight_scale [N, G]   weight_g_idx [K]
//! plain       weight [N, K] of int8    weight_zero_point [N, G] of int8    weight_scale [N, G]
//! ```
//!
//! A weight is scale * (code - zero). Sources: the packing code of AutoGPTQ, AutoAWQ and compressed-tensors.

mod convert;
mod parts;
mod scheme;

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use self::convert::Converted;
use self::parts::Parts;
use self::scheme::{Packing, Scheme};
use super::overlay::Overlay;
use super::{Checkpoint, RowSource, SafetensorsDir, TensorInfo};
use crate::error::{Error, Result};
use crate::quant::DType;

/// A quantized folder. Its matrices are converted when they are read.
#[derive(Debug)]
pub struct GroupedDir {
    folder: SafetensorsDir,
    scheme: Scheme,
    /// In the folder's order: a quantized matrix stands where its codes do.
    names: Vec<String>,
    matrices: HashMap<String, Matrix>,
}

#[derive(Debug)]
struct Matrix {
    /// The name without what tells the parts apart.
    stem: String,
    dtype: DType,
    rows: usize,
    cols: usize,
    /// Columns that share a scale.
    group: usize,
    /// (cols,): the file's column that stands in each place, where columns of a group are not side by side.
    order: Option<Vec<u32>>,
}

impl GroupedDir {
    /// `config` is the folder's `quantization_config`. Every quantized matrix is checked.
    pub fn new(folder: SafetensorsDir, config: &Value) -> Result<Self> {
        let scheme = Scheme::read(folder.path(), config)?;
        let mut names = Vec::new();
        let mut matrices = HashMap::new();
        let mut parts = HashSet::new();
        for name in folder.tensor_names() {
            let Some(stem) = scheme.packing.stem(&folder, name) else {
                names.push(name.to_owned());
                continue;
            };
            parts.extend(scheme.packing.part_names(stem));
            let matrix = Parts::find(&folder, scheme, stem)?.matrix(folder.path(), stem)?;
            names.push(format!("{stem}.weight"));
            matrices.insert(format!("{stem}.weight"), matrix);
        }
        names.retain(|name| matrices.contains_key(name) || !parts.contains(name));
        Ok(Self { folder, scheme, names, matrices })
    }
}

impl Packing {
    /// The matrix's name, if `name` is that of its codes.
    fn stem<'a>(self, folder: &SafetensorsDir, name: &'a str) -> Option<&'a str> {
        match self {
            Self::Gptq { .. } | Self::Awq => name.strip_suffix(".qweight"),
            Self::Packed => name.strip_suffix(".weight_packed"),
            Self::Plain => {
                name.strip_suffix(".weight").filter(|_| folder.raw(name).is_some_and(|tensor| tensor.dtype == "I8"))
            }
        }
    }

    fn part_names(self, stem: &str) -> impl Iterator<Item = String> {
        let suffixes: &[&str] = match self {
            Self::Gptq { .. } | Self::Awq => &["qweight", "qzeros", "scales", "g_idx"],
            Self::Packed | Self::Plain => {
                &[
                    "weight_packed",
                    "weight_scale",
                    "weight_zero_point",
                    "weight_g_idx",
                    "weight_shape",
                    // How inputs were to be rounded.
                    "input_scale",
                    "input_zero_point",
                ]
            }
        };
        suffixes.iter().map(move |suffix| format!("{stem}.{suffix}"))
    }
}

impl Overlay for GroupedDir {
    fn under(&self) -> &dyn Checkpoint {
        &self.folder
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn converted_info(&self, name: &str) -> Option<TensorInfo> {
        let Matrix { dtype, rows, cols, .. } = *self.matrices.get(name)?;
        Some(TensorInfo { dtype, shape: vec![rows, cols] })
    }

    fn converted(&self, name: &str) -> Result<(&str, Box<dyn RowSource + '_>)> {
        let (name, matrix) = self.matrices.get_key_value(name).expect("a matrix in groups");
        let parts = Parts::find(&self.folder, self.scheme, &matrix.stem)?;
        match parts.has_finite_scales() {
            true => Ok((name, Box::new(Converted { name, matrix, parts }))),
            false => {
                Err(Error::corrupt(self.folder.path(), format!("'{}' has a scale that is no number", matrix.stem)))
            }
        }
    }

    fn order(&self, name: &str) -> Option<&[u32]> {
        self.matrices.get(name)?.order.as_deref()
    }

    fn parts(&self, name: &str) -> Vec<String> {
        let parts = self.matrices.get(name).into_iter().flat_map(|matrix| self.scheme.packing.part_names(&matrix.stem));
        parts.chain([name.to_owned()]).collect()
    }
}
