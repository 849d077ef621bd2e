//! What a model's files say about it, without loading it.

use std::path::Path;

use ferrule_engine::Result;
use ferrule_engine::config::Quantization;
use ferrule_engine::model::{self, ModelConfig};
use ferrule_engine::quant::DType;
use ferrule_engine::quantize::{Certificate, certificate};

#[derive(Debug)]
pub struct Facts {
    pub config: ModelConfig,
    pub num_parameters: u64,
    /// Bytes of tensors by type, most bytes first.
    pub weights: Vec<(DType, u64)>,
    /// Of these, the embedding table if the output head is a tensor of its own: a step reads few of its rows.
    pub lookup_bytes: u64,
    /// Of a model that `ferrule quantize` made.
    pub certificate: Option<Certificate>,
}

impl Facts {
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_as(path, None)
    }

    /// Of the model as it will run.
    pub fn open_as(path: &Path, quantization: Option<Quantization>) -> Result<Self> {
        let source = model::open_as(path, quantization)?;
        let mut num_parameters = 0;
        let mut weights: Vec<(DType, u64)> = Vec::new();
        for name in source.checkpoint.tensor_names() {
            let tensor = source.checkpoint.info(name)?;
            num_parameters += tensor.shape.iter().product::<usize>() as u64;
            let bytes = tensor.num_bytes() as u64;
            match weights.iter_mut().find(|(dtype, _)| *dtype == tensor.dtype) {
                Some((_, sum)) => *sum += bytes,
                None => weights.push((tensor.dtype, bytes)),
            }
        }
        weights.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        let lookup_bytes = match source.config.tie_embeddings {
            true => 0,
            false => {
                let embedding = source.part(model::Role::Embedding)?;
                source.checkpoint.info(&embedding.name)?.num_bytes() as u64
            }
        };
        let certificate = source.checkpoint.note(certificate::KEY).and_then(|text| serde_json::from_str(&text).ok());
        Ok(Self { config: source.config, num_parameters, weights, lookup_bytes, certificate })
    }

    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The types that hold a twentieth of the bytes or more, most bytes first.
    pub fn quantization(&self) -> String {
        let matters = |bytes: u64| bytes * 20 >= self.weight_bytes();
        let types = self.weights.iter().filter(|(_, bytes)| matters(*bytes)).map(|(dtype, _)| dtype.to_string());
        types.collect::<Vec<_>>().join("+")
    }
}
