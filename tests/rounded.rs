//! Models whose matrices are rounded while they load.

use std::path::{Path, PathBuf};

use ferrule_engine::config::{Activations, Quantization};
use ferrule_engine::model::{self, Role, Source};
use ferrule_engine::quant::{DType, PackedMatrix, dequantize};
use ferrule_engine::weights::{Checkpoint, RoundedCheckpoint, SafetensorsDir};
use ferrule_engine::{EngineConfig, EngineHandle, GenerateRequest, Prompt, SamplingParams, TokenId};
use half::f16;
use proptest::prelude::*;

mod reference;

const TYPES: [DType; 7] =
    [DType::I4G32, DType::I4G64, DType::I4G128, DType::U4G32, DType::U4G64, DType::U4G128, DType::Q8_0];

/// A folder's only tensor, [rows, cols] of float32.
fn write(dir: &Path, cols: usize, numbers: &[f32]) {
    let shape = [numbers.len() / cols, cols];
    let header = serde_json::json!({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * numbers.len()]}});
    let header = serde_json::to_vec(&header).unwrap();
    let data: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(dir.join("model.safetensors"), file).unwrap();
}

fn rounded(dtype: DType, cols: usize, numbers: &[f32]) -> (tempfile::TempDir, RoundedCheckpoint) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), cols, numbers);
    let folder = SafetensorsDir::open(dir.path()).unwrap();
    let checkpoint = RoundedCheckpoint::new(Box::new(folder), [("w".to_owned(), dtype)].into());
    (dir, checkpoint)
}

/// Every number that a block can hold, from its scale and zero point.
fn grid(dtype: DType, block: &[u8]) -> Vec<f32> {
    let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
    let zero = if dtype.name().starts_with('U') { i32::from(block[2]) } else { 8 };
    match dtype {
        DType::Q8_0 => (-127..=127).map(|code| scale * code as f32).collect(),
        _ => (0..16).map(|code| scale * (code - zero) as f32).collect(),
    }
}

fn numbers(len: usize) -> impl Strategy<Value = Vec<f32>> {
    let spread = prop_oneof![Just(1e-3f32), Just(1.0), Just(300.0)];
    (prop::collection::vec(-1.0f32..1.0, len), spread, -1.0f32..1.0)
        .prop_map(|(numbers, spread, shift)| numbers.iter().map(|x| (x + shift) * spread).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Each number becomes the nearest of its group, whose ends lie within half a step of the group's own.
    #[test]
    fn every_number_becomes_the_nearest_of_its_grid(
        dtype in prop::sample::select(TYPES.to_vec()),
        numbers in numbers(3 * 128),
    ) {
        let (_dir, checkpoint) = rounded(dtype, 128, &numbers);
        let view = checkpoint.tensor("w").unwrap();
        prop_assert_eq!((view.dtype, &view.shape[..]), (dtype, &[3, 128][..]));
        let mut got = vec![0.0; numbers.len()];
        dequantize(dtype, &view.bytes, &mut got);
        let len = dtype.block_len();
        for (b, block) in view.bytes.chunks_exact(dtype.block_bytes()).enumerate() {
            let grid = grid(dtype, block);
            let step = grid[1] - grid[0];
            for (x, got) in numbers[b * len..][..len].iter().zip(&got[b * len..]) {
                let nearest = grid.iter().map(|y| (x - y).abs()).fold(f32::INFINITY, f32::min);
                prop_assert!((x - got).abs() <= nearest + 1e-5 * step, "{} became {} of {:?}", x, got, grid);
                // A float16 scale is off by 2^-11 at most, 15 or 127 times.
                prop_assert!((x - got).abs() <= 0.57 * step, "{} became {}, step {}", x, got, step);
            }
        }
    }

    /// Packing reads rows in any order, a panel at a time: the numbers are those of the whole tensor.
    #[test]
    fn packed_rows_are_those_of_the_tensor(
        dtype in prop::sample::select(TYPES.to_vec()),
        numbers in numbers(37 * 128),
    ) {
        let (_dir, checkpoint) = rounded(dtype, 128, &numbers);
        let (view, rows) = (checkpoint.tensor("w").unwrap(), checkpoint.rows("w").unwrap());
        let packed = PackedMatrix::zeroed(dtype, 37, 128).unwrap();
        // SAFETY: one thread.
        unsafe { packed.pack_panels(&*rows, &|row| 36 - row, 0..packed.num_panels()) };
        let (mut got, mut expected) = (vec![0.0; 128], vec![0.0; numbers.len()]);
        dequantize(dtype, &view.bytes, &mut expected);
        for row in 0..37 {
            packed.decode_row(row, &mut got);
            prop_assert_eq!(&got, &expected[(36 - row) * 128..][..128]);
        }
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name)
}

fn engine(model: &Path, quantization: Option<Quantization>, packed_weights: Option<PathBuf>) -> EngineHandle {
    let config = EngineConfig {
        activations: Activations::F32,
        quantization,
        threads: Some(2),
        kv_cache_memory: Some(8 << 20),
        packed_weights,
        ..EngineConfig::default()
    };
    EngineHandle::load(model, config).unwrap()
}

/// Log-probabilities of 20 tokens, each given those before it.
fn logprobs(engine: &EngineHandle, tokens: &[usize]) -> Vec<f32> {
    let prompt = Prompt::Tokens(tokens.iter().map(|&token| token as TokenId).collect());
    let params = SamplingParams { prompt_logprobs: Some(0), ..SamplingParams::greedy(0) };
    let output = engine.generate(GenerateRequest::new(prompt, params)).unwrap();
    output.prompt_logprobs.iter().map(|token| token.logprob).collect()
}

fn type_of(source: &Source, role: Role) -> DType {
    source.checkpoint.info(&source.part(role).unwrap().name).unwrap().dtype
}

#[test]
fn rounded_models_compute_with_what_their_weights_became() {
    let tokens: Vec<usize> = (1..20).collect();
    for (name, quantization) in
        [("llama3", Quantization::Int4), ("phi3", Quantization::Int4), ("gemma3", Quantization::Int8)]
    {
        let source = model::open_as(&golden(name), Some(quantization)).unwrap();
        let logits = reference::logits(&source, &tokens);
        let expected = tokens[1..].iter().zip(&logits).map(|(&next, logits)| {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
            f64::from(logits[next] - most) - sum.ln()
        });
        let got = logprobs(&engine(&golden(name), Some(quantization), None), &tokens);
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-3, "{name} as {quantization}: {got} and {expected}");
        }
    }
}

#[test]
fn ends_have_eight_bits_and_vectors_stay() {
    let int4 = model::open_as(&golden("llama3"), Some(Quantization::Int4)).unwrap();
    assert_eq!(type_of(&int4, Role::Embedding), DType::Q8_0);
    for role in [Role::Query(0), Role::AttnOutput(1), Role::Up(0), Role::Down(1)] {
        assert_eq!(type_of(&int4, role), DType::U4G32, "{role:?}");
    }
    assert_eq!(type_of(&int4, Role::FinalNorm), type_of(&model::open(&golden("llama3")).unwrap(), Role::FinalNorm));
    let int8 = model::open_as(&golden("llama3"), Some(Quantization::Int8)).unwrap();
    assert!([Role::Embedding, Role::Gate(0)].iter().all(|&role| type_of(&int8, role) == DType::Q8_0));
}

#[test]
fn packed_files_of_one_model_do_not_mix() {
    let (model, dir, tokens) = (golden("llama3"), tempfile::tempdir().unwrap(), Vec::from_iter(1..20));
    let schemes = [None, Some(Quantization::Int8), Some(Quantization::Int4)];
    let expected = schemes.map(|scheme| logprobs(&engine(&model, scheme, None), &tokens));
    assert!(expected[0] != expected[1] && expected[1] != expected[2]);
    for round in 0..2 {
        for (scheme, expected) in schemes.into_iter().zip(&expected) {
            let got = logprobs(&engine(&model, scheme, Some(dir.path().into())), &tokens);
            assert_eq!(&got, expected, "{scheme:?}, round {round}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}

#[test]
fn quantized_models_are_not_quantized_again() {
    assert!(model::open(&golden("llama3")).unwrap().can_be_quantized(Quantization::Int4).unwrap());
    let source = model::open_as(&golden("llama3"), Some(Quantization::Int8)).unwrap();
    assert!(!source.can_be_quantized(Quantization::Int4).unwrap());
    let error = source.quantized(Quantization::Int4).err().expect("it is refused").to_string();
    assert!(error.contains("nothing to round to int4"), "{error}");
}
