//! How a folder's `quantization_config` says that its tensors are quantized.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::weights::safetensors::RawTensor;

/// Where codes, scales and zero points of a matrix lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// AutoGPTQ's and GPTQModel's: `qweight` packs along columns. In version 1, zero points are stored less one.
    Gptq { version: u8 },
    /// AutoAWQ's GEMM layout: `qweight` packs along rows, in an order of its own.
    Awq,
    /// compressed-tensors' `weight_packed`: packs along columns, row by row.
    Packed,
    /// compressed-tensors' plain int8 `weight`.
    Plain,
}

/// What all quantized matrices of a folder have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    pub packing: Packing,
    /// 4 or 8.
    pub bits: usize,
    /// Columns that share a scale. None: all of a row.
    pub group: Option<usize>,
    /// Inputs are meant to be int8, with a scale for each token.
    pub int8_tokens: bool,
}

/// The fields of GPTQ's and AWQ's configurations that change what tensors mean.
#[derive(Deserialize)]
struct Flat {
    bits: usize,
    #[serde(alias = "q_group_size")]
    group_size: i64,
    #[serde(default)]
    checkpoint_format: Option<String>,
    #[serde(default)]
    version: Option<String>,
    /// GPTQModel's settings of single modules.
    #[serde(default)]
    dynamic: Option<Value>,
}

#[derive(Deserialize)]
struct Compressed {
    format: String,
    config_groups: std::collections::BTreeMap<String, ConfigGroup>,
}

#[derive(Deserialize)]
struct ConfigGroup {
    weights: Option<WeightArgs>,
    #[serde(default)]
    input_activations: Option<InputArgs>,
    #[serde(default)]
    format: Option<String>,
}

#[derive(Deserialize, PartialEq)]
struct InputArgs {
    num_bits: usize,
    r#type: String,
}

#[derive(Deserialize, PartialEq)]
struct WeightArgs {
    num_bits: usize,
    r#type: String,
    strategy: String,
    #[serde(default)]
    group_size: Option<i64>,
}

impl Scheme {
    /// Reads `quantization_config` of the folder at `path`.
    pub fn read(path: &Path, config: &Value) -> Result<Self> {
        let method = config.get("quant_method").and_then(Value::as_str).unwrap_or("of an unnamed method");
        let scheme = match method {
            "gptq" => Self::gptq(path, parse(path, config)?),
            "awq" => Self::awq(path, parse(path, config)?),
            "compressed-tensors" => Self::compressed(path, parse(path, config)?),
            other => refuse(
                path,
                format!(
                    "weights quantized by '{other}': Ferrule runs GPTQ, AWQ, FP8 and compressed-tensors folders, and GGUF"
                ),
            ),
        }?;
        match scheme.bits {
            4 | 8 => Ok(scheme),
            bits => refuse(path, format!("weights of {bits} bits: {method} runs with 4 and 8")),
        }
    }

    /// Codes in a word of 32 bits.
    pub fn per_word(self) -> usize {
        32 / self.bits
    }

    /// Rows and columns of the matrix whose codes have this shape. None: they are no matrix.
    pub fn shape(self, codes: &[usize]) -> Option<(usize, usize)> {
        let &[first, second] = codes else { return None };
        Some(match self.packing {
            Packing::Gptq { .. } => (second, first.checked_mul(self.per_word())?),
            Packing::Awq => (second.checked_mul(self.per_word())?, first),
            Packing::Packed => (first, second.checked_mul(self.per_word())?),
            Packing::Plain => (first, second),
        })
    }

    /// Whether zero points change nothing: those of plain int8 weights count from zero.
    pub fn is_neutral(self, zeros: &RawTensor<'_>) -> bool {
        self.packing == Packing::Plain && zeros.bytes.iter().all(|&byte| byte == 0)
    }

    fn gptq(path: &Path, config: Flat) -> Result<Self> {
        // Those that begin so are left as they are, which their tensors show.
        let has_own = |modules: &Map<String, Value>| modules.keys().any(|name| !name.starts_with("-:"));
        if config.dynamic.is_some_and(|dynamic| dynamic.as_object().is_some_and(has_own)) {
            return refuse(path, "GPTQ with settings of single modules ('dynamic')".into());
        }
        let version = match config.checkpoint_format.as_deref() {
            None | Some("gptq") => 1,
            Some("gptq_v2") => 2,
            Some(other) => return refuse(path, format!("GPTQ's checkpoint format '{other}'")),
        };
        Ok(Self {
            packing: Packing::Gptq { version },
            bits: config.bits,
            group: group(path, config.group_size)?,
            int8_tokens: false,
        })
    }

    fn awq(path: &Path, config: Flat) -> Result<Self> {
        match config.version.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("gemm") => {}
            Some(other) => return refuse(path, format!("AWQ's layout '{other}': 'gemm' runs")),
        }
        if config.bits != 4 {
            return refuse(path, format!("AWQ with {} bits: 4 run", config.bits));
        }
        Ok(Self { packing: Packing::Awq, bits: 4, group: group(path, config.group_size)?, int8_tokens: false })
    }

    fn compressed(path: &Path, config: Compressed) -> Result<Self> {
        let mut groups = config.config_groups.into_values();
        let first = groups.next().ok_or_else(|| Error::corrupt(path, "'config_groups' is empty"))?;
        let format = first.format.unwrap_or(config.format);
        let packing = match format.as_str() {
            "pack-quantized" => Packing::Packed,
            "int-quantized" => Packing::Plain,
            other => return refuse(path, format!("compressed-tensors' format '{other}'")),
        };
        let weights = first.weights.ok_or_else(|| Error::corrupt(path, "a group of 'config_groups' has no weights"))?;
        let inputs = first.input_activations;
        let int8_tokens = inputs.is_some_and(|inputs| inputs.num_bits == 8 && inputs.r#type == "int");
        if groups.any(|other| other.weights.as_ref() != Some(&weights)) {
            return refuse(path, "compressed-tensors with several kinds of weights".into());
        }
        let group = match (weights.r#type.as_str(), weights.strategy.as_str()) {
            ("int", "group") => group(path, weights.group_size.unwrap_or(0))?,
            ("int", "channel") => None,
            (kind, strategy) => {
                return refuse(path, format!("compressed-tensors' weights of type '{kind}' by '{strategy}'"));
            }
        };
        Ok(Self { packing, bits: weights.num_bits, group, int8_tokens })
    }
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, config: &Value) -> Result<T> {
    serde_json::from_value(config.clone())
        .map_err(|err| Error::corrupt(path, format!("'quantization_config' does not parse: {err}")))
}

/// -1 is a whole row.
fn group(path: &Path, size: i64) -> Result<Option<usize>> {
    match usize::try_from(size) {
        Ok(size) if size > 0 => Ok(Some(size)),
        _ if size == -1 => Ok(None),
        _ => Err(Error::corrupt(path, format!("a group size of {size}"))),
    }
}

fn refuse<T>(path: &Path, what: String) -> Result<T> {
    Err(Error::unsupported(path, format!("the model has {what}")))
}
