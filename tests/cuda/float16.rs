//! Models whose weights are float16, of which the device keeps every bit.

use ferrule_engine::EngineConfig;
use ferrule_engine::model::open;
use half::f16;
use serde_json::{Map, json};

use crate::models::{
    BF16_NOISE, agree, exact, expected, generate_together, generated_and_scored, golden, load, on_device, prompts,
    score,
};
use crate::tested_device;

/// Of logits: the root of 32 pairs, of normed numbers times differences of eighths (2.5 / 64 in the mean square). A tied head's
/// are smaller.
const SPREAD: f32 = 1.1;

/// In the shape of a golden model. Numbers of activations are equal in pairs, in every layer, since rows of weights are; and
/// their columns are 128 and -128 in turn, each with up to three eighths more. So nothing but eighths is left in products,
/// and with bf16, of which there are none between 128 and 129, all logits would be 0.
pub fn model_in_eighths(name: &str) -> tempfile::TempDir {
    let (folder, source) = (tempfile::tempdir().unwrap(), open(&golden(name)).expect("the model opens"));
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (seed, name) in source.checkpoint.tensor_names().into_iter().enumerate() {
        let shape = source.checkpoint.info(name).unwrap().shape;
        let cols = shape[shape.len() - 1];
        let number = |i: usize| match name {
            name if name.contains("norm") => 1.0,
            name if name.contains("embed_tokens") => hash(seed, i / 2, 1024) / 4096.0 - 0.125,
            _ => {
                let size = 128.0 + hash(seed, i / cols / 2 * cols + i % cols, 4) / 8.0;
                if i.is_multiple_of(2) { size } else { -size }
            }
        };
        let begin = data.len();
        data.extend((0..shape.iter().product()).flat_map(|i| f16::from_f32(number(i)).to_le_bytes()));
        header.insert(name.into(), json!({"dtype": "F16", "shape": shape, "data_offsets": [begin, data.len()]}));
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    std::fs::copy(golden(name).join("config.json"), folder.path().join("config.json")).unwrap();
    folder
}

/// A whole number below `bound`.
fn hash(seed: usize, i: usize, bound: usize) -> f32 {
    let mixed = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) % bound) as f32
}

/// Tied and not, with a window, and with experts: prompts in tiles and in chunks of a few rows, and what follows them.
#[test]
fn weights_of_float16_keep_all_of_their_bits() {
    let Some(_device) = tested_device() else { return };
    for name in ["llama3", "llama-sharded", "mistral", "mixtral"] {
        let (folder, ids) = (model_in_eighths(name), expected(&golden(name)).input_ids);
        let (model, bound) = (folder.path(), BF16_NOISE.of(&golden(name)));
        let reference = score(&load(model, exact()), &ids);
        agree(bound, &score(&load(model, on_device()), &ids), &reference, SPREAD, name);
        let device = load(model, EngineConfig { max_num_batched_tokens: 7, ..on_device() });
        let prompts = prompts(&golden(name));
        let outputs = generate_together(&device, &prompts, 10);
        let (found, reference) = generated_and_scored(exact(), model, &prompts, &outputs);
        agree(bound, &found, &reference, SPREAD, name);
    }
}
