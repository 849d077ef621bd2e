//! The tensors of a layer and of a model's ends, under Hugging Face's names.

use half::f16;

use super::packing;
use super::tensor::OutTensor;
use crate::error::Result;
use crate::model::{Role, Source, roles};
use crate::quant::{DType, dequantize};
use crate::quantize::method::Made;
use crate::quantize::round::Grouped;
use crate::quantize::scheme::Layout;

/// Layer `layer` with its quantized matrices `made`, whose input scales are folded into what makes their inputs.
pub fn layer(source: &Source, layer: usize, mut made: Vec<Made>, layout: Layout) -> Result<Vec<OutTensor>> {
    let scales: Vec<(Role, Vec<f32>)> =
        made.iter().filter_map(|made| Some((made.role, made.input_scale.clone()?))).collect();
    let mut vectors = Vec::new();
    for role in roles(&source.config).into_iter().filter(|role| role.layer() == Some(layer) && !role.is_matrix()) {
        vectors.push((role, source.vector(role)?));
    }
    for (reader, scale) in &scales {
        fold(source, *reader, scale, &mut vectors, &mut made);
    }
    let mut tensors: Vec<OutTensor> = vectors.into_iter().map(|(role, values)| vector(source, role, values)).collect();
    for (stem, grouped) in by_tensor(source, made) {
        tensors.extend(packing::tensors(&stem, &grouped, layout));
    }
    for role in roles(&source.config).into_iter().filter(|role| role.layer() == Some(layer) && role.is_kept()) {
        tensors.push(sixteen_bits(source, role)?);
    }
    Ok(tensors)
}

/// Divides what makes the inputs of `reader` by `scale`. Of matrices that read one input the first one does it.
fn fold(source: &Source, reader: Role, scale: &[f32], vectors: &mut [(Role, Vec<f32>)], made: &mut [Made]) {
    let mut divide = |maker: Role, scale: &[f32]| {
        if let Some((_, values)) = vectors.iter_mut().find(|(role, _)| *role == maker) {
            values.iter_mut().zip(scale).for_each(|(value, scale)| *value /= scale);
        }
    };
    match reader {
        Role::Query(i) => divide(Role::AttnNorm(i), scale),
        Role::Gate(i) => divide(Role::FfnNorm(i), scale),
        Role::Down(i) => divide_rows(made, Role::Up(i), scale),
        Role::AttnOutput(i) => {
            // A value head serves several query heads, whose columns have the same scales.
            let c = &source.config;
            let per_kv_head = c.q_dim() / c.num_kv_heads;
            let of_values: Vec<f32> =
                (0..c.kv_dim()).map(|row| scale[row / c.head_dim * per_kv_head + row % c.head_dim]).collect();
            divide(Role::ValueBias(i), &of_values);
            divide_rows(made, Role::Value(i), &of_values);
        }
        _ => {}
    }
}

fn divide_rows(made: &mut [Made], maker: Role, scale: &[f32]) {
    let Some(made) = made.iter_mut().find(|made| made.role == maker) else { return };
    let groups = made.grouped.groups();
    for (steps, scale) in made.grouped.steps.chunks_exact_mut(groups).zip(scale) {
        steps.iter_mut().for_each(|step| step.scale = f16::from_f32(step.scale.to_f32() / scale));
    }
}

/// The matrices by the stem of their tensor's name, parts of fused tensors put together.
fn by_tensor(source: &Source, made: Vec<Made>) -> Vec<(String, Grouped)> {
    let mut tensors: Vec<(String, Vec<Grouped>)> = Vec::new();
    for Made { role, grouped, .. } in made {
        let name = source.hf_place(role).name;
        let stem = name.strip_suffix(".weight").expect("matrices are weights").to_owned();
        match tensors.iter_mut().find(|(other, _)| *other == stem) {
            Some((_, parts)) => parts.push(grouped),
            None => tensors.push((stem, vec![grouped])),
        }
    }
    tensors.into_iter().map(|(stem, parts)| (stem, Grouped::stack(parts))).collect()
}

/// A norm or a bias, as folders have it.
fn vector(source: &Source, role: Role, mut values: Vec<f32>) -> OutTensor {
    if role.is_norm() {
        values.iter_mut().for_each(|value| *value -= source.family().norm_offset);
    }
    OutTensor::floats(source.hf_place(role).name, vec![values.len()], &values)
}

/// What belongs to no layer: the embedding table, the last norm, the head. Matrices stay as they are if they are
/// floats of 16 bits, and become float16 otherwise.
pub fn ends(source: &Source) -> Result<Vec<OutTensor>> {
    let mut tensors = Vec::new();
    for role in roles(&source.config).into_iter().filter(|role| role.layer().is_none()) {
        tensors.push(match role {
            Role::FinalNorm => vector(source, role, source.vector(role)?),
            _ => sixteen_bits(source, role)?,
        });
    }
    Ok(tensors)
}

fn sixteen_bits(source: &Source, role: Role) -> Result<OutTensor> {
    let part = source.part(role)?;
    let view = source.checkpoint.tensor(&part.name)?;
    let (dtype, bytes) = match view.dtype {
        DType::BF16 | DType::F16 => (view.dtype, view.bytes.to_vec()),
        other => {
            let cols = view.shape.last().copied().unwrap_or(0);
            let row_bytes = other.row_bytes(cols).expect("tensors were checked when they were opened");
            let mut row = vec![0.0; cols];
            let halves = view.bytes.chunks_exact(row_bytes).flat_map(|bytes| {
                dequantize(other, bytes, &mut row);
                row.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect::<Vec<u8>>()
            });
            (DType::F16, halves.collect())
        }
    };
    source.checkpoint.release(&part.name);
    Ok(OutTensor { name: source.hf_place(role).name, dtype: dtype.name().into(), shape: view.shape, bytes })
}
