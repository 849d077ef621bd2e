//! A Hugging Face folder as a GGUF file of the same numbers: what llama.cpp's convert script makes of it.

use std::collections::HashMap;
use std::path::Path;

use super::Progress;
use crate::error::{Error, Result};
use crate::model::{self, ModelConfig, Role, RopeConfig, RopeScaling, RopeTable, Source, roles};
use crate::quant::DType;
use crate::text::gguf_export;
use crate::weights::{GgufWriter, NewTensor, Pairs};

/// Llama 3's scaling of positions, as divisors of the frequencies.
const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Writes the model of a folder to `target`, and reads it again: a model that a GGUF file cannot describe is refused.
pub fn to_gguf(source: &Source, target: &Path, progress: &mut dyn Progress) -> Result<Source> {
    let tensors = tensors(source)?;
    progress.begin("converting", tensors.len());
    let new: Vec<NewTensor> = tensors.iter().map(|(tensor, _)| tensor.clone()).collect();
    let mut writer = GgufWriter::create(target, &metadata(source)?, &new)?;
    for (tensor, content) in &tensors {
        writer.write(&content.bytes(source, tensor)?)?;
        progress.step()?;
    }
    writer.finish()?;
    let converted = model::open(target)?;
    match same_model(&source.config, &converted.config) {
        true => Ok(converted),
        false => Err(Error::unsupported(source.checkpoint.path(), "a GGUF file cannot say how this model computes")),
    }
}

/// What a tensor of the file is made of.
enum Content {
    /// Parts below each other: one, but for fused tensors.
    Roles(Vec<Role>),
    Numbers(Vec<f32>),
}

fn tensors(source: &Source) -> Result<Vec<(NewTensor, Content)>> {
    let mut tensors: Vec<(NewTensor, Content)> = Vec::new();
    let mut places = HashMap::new();
    for role in roles(&source.config) {
        let place = source.gguf_place(role);
        if let Some(&at) = places.get(&place.name) {
            match &mut tensors[at as usize].1 {
                Content::Roles(roles) => roles.push(role),
                Content::Numbers(_) => unreachable!("roles' tensors come first"),
            }
            continue;
        }
        places.insert(place.name.clone(), tensors.len() as u32);
        let dtype = if role.is_matrix() { dense_type(source, role)? } else { DType::F32 };
        let shape = place.shape();
        tensors.push((NewTensor { name: place.name, dtype, shape }, Content::Roles(vec![role])));
    }
    if let Some(divisors) = divisors(&source.config.ropes[0]) {
        let tensor = NewTensor { name: ROPE_DIVISORS.into(), dtype: DType::F32, shape: vec![divisors.len()] };
        tensors.push((tensor, Content::Numbers(divisors)));
    }
    Ok(tensors)
}

/// The type of a matrix, which must be one of full precision.
fn dense_type(source: &Source, role: Role) -> Result<DType> {
    let name = source.part(role)?.name;
    match source.checkpoint.info(&name)?.dtype {
        dtype @ (DType::F32 | DType::F16 | DType::BF16) => Ok(dtype),
        other => {
            let what = format!("'{name}' is {other}: GGUF files are made of folders in F32, F16 or BF16");
            Err(Error::unsupported(source.checkpoint.path(), what))
        }
    }
}

impl Content {
    fn bytes(&self, source: &Source, tensor: &NewTensor) -> Result<Vec<u8>> {
        let roles = match self {
            Self::Roles(roles) => roles,
            Self::Numbers(numbers) => return Ok(bytes(numbers)),
        };
        let mut out = vec![0; tensor.num_bytes()];
        for &role in roles {
            let place = source.gguf_place(role);
            let row_bytes = out.len() / place.total_rows;
            let mut put = |row: usize, bytes: &[u8]| {
                let at = (place.first_row + source.gguf_row(role, row)) * row_bytes;
                out[at..at + row_bytes].copy_from_slice(bytes);
            };
            if !role.is_matrix() {
                let numbers = bytes(&source.vector(role)?);
                numbers.chunks_exact(row_bytes).enumerate().for_each(|(row, bytes)| put(row, bytes));
                continue;
            }
            let part = source.part(role)?;
            let view = source.checkpoint.tensor(&part.name)?;
            if view.dtype != tensor.dtype {
                let what = format!("'{}' is {} beside others that are {}", part.name, view.dtype, tensor.dtype);
                return Err(Error::unsupported(source.checkpoint.path(), what));
            }
            for row in 0..part.rows {
                put(row, &view.bytes[(part.row_of)(row) * row_bytes..][..row_bytes]);
            }
            source.checkpoint.release(&part.name);
        }
        Ok(out)
    }
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Of the frequencies, where they are no function that GGUF's metadata name.
fn divisors(rope: &RopeConfig) -> Option<Vec<f32>> {
    matches!(rope.scaling, RopeScaling::Llama3 { .. }).then(|| {
        let plain = RopeTable::new(&RopeConfig { scaling: RopeScaling::None, ..rope.clone() });
        plain.inv_freq.iter().zip(&RopeTable::new(rope).inv_freq).map(|(plain, scaled)| plain / scaled).collect()
    })
}

fn metadata(source: &Source) -> Result<Pairs> {
    let (c, arch) = (&source.config, source.gguf_arch());
    let mut pairs = Pairs::default();
    pairs.text("general.architecture", arch).text("general.type", "model").text("general.name", &c.name);
    pairs.u32("general.file_type", file_type(dense_type(source, Role::Embedding)?));
    let mut count = |name: &str, count: usize| {
        pairs.u32(&format!("{arch}.{name}"), count as u32);
    };
    count("vocab_size", c.vocab_size);
    count("context_length", c.max_position);
    count("embedding_length", c.hidden_size);
    count("block_count", c.num_layers());
    count("feed_forward_length", c.intermediate_size);
    if let Some(experts) = c.experts {
        count("expert_count", experts.count);
        count("expert_used_count", experts.per_token);
        count("expert_feed_forward_length", c.intermediate_size);
    }
    count("attention.head_count", c.num_heads);
    count("attention.head_count_kv", c.num_kv_heads);
    count("attention.key_length", c.head_dim);
    count("attention.value_length", c.head_dim);
    count("rope.dimension_count", c.ropes[0].dim);
    if let Some(window) = c.layers.iter().find_map(|layer| layer.window) {
        count("attention.sliding_window", window);
    }
    let mut number = |name: &str, number: f32| {
        pairs.f32(&format!("{arch}.{name}"), number);
    };
    number("attention.layer_norm_rms_epsilon", c.norm_eps);
    number("rope.freq_base", c.ropes[0].theta);
    if let Some(local) = c.ropes.get(1) {
        number("rope.freq_base_swa", local.theta);
    }
    for (name, cap) in [("attn_logit_softcapping", c.attention_softcap), ("final_logit_softcapping", c.final_softcap)] {
        cap.into_iter().for_each(|cap| number(name, cap));
    }
    scaling(&c.ropes[0].scaling, arch, &mut pairs);
    gguf_export::write(source.checkpoint.path(), c.vocab_size, &mut pairs)?;
    Ok(pairs)
}

fn scaling(scaling: &RopeScaling, arch: &str, pairs: &mut Pairs) {
    let key = |name: &str| format!("{arch}.rope.scaling.{name}");
    match *scaling {
        RopeScaling::Linear { factor } => {
            pairs.text(&key("type"), "linear").f32(&key("factor"), factor);
        }
        RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position, magnitude } => {
            pairs.text(&key("type"), "yarn").f32(&key("factor"), factor);
            pairs.u32(&key("original_context_length"), original_max_position as u32);
            pairs.f32(&key("yarn_beta_fast"), beta_fast).f32(&key("yarn_beta_slow"), beta_slow);
            // Readers multiply it by what YaRN's paper has.
            pairs.f32(&key("attn_factor"), magnitude / (1.0 + 0.1 * factor.ln().max(0.0)));
        }
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::PerFrequency { .. } => {}
    }
}

/// llama.cpp's number for a file whose matrices are of one type.
fn file_type(dtype: DType) -> u32 {
    match dtype {
        DType::F32 => 0,
        DType::F16 => 1,
        _ => 32,
    }
}

/// Whether both compute the same, up to the last bits of the angles.
fn same_model(folder: &ModelConfig, file: &ModelConfig) -> bool {
    let said_elsewhere = ModelConfig {
        family: folder.family,
        name: folder.name.clone(),
        norm_weight_offset: folder.norm_weight_offset,
        ropes: folder.ropes.clone(),
        ..file.clone()
    };
    let close = |a: f32, b: f32| (a - b).abs() <= 1e-6 * a.abs();
    let same_angles = |a: &RopeTable, b: &RopeTable| {
        close(a.magnitude, b.magnitude) && a.inv_freq.iter().zip(&b.inv_freq).all(|(&a, &b)| close(a, b))
    };
    *folder == said_elsewhere
        && folder.ropes.len() == file.ropes.len()
        && folder
            .ropes
            .iter()
            .zip(&file.ropes)
            .all(|(a, b)| a.dim == b.dim && same_angles(&RopeTable::new(a), &RopeTable::new(b)))
}
