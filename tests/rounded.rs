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

    /// The same of Q6_K, whose scales are whole multiples of the block's: where one was rounded down, the greatest numbers
    /// of its group are clipped.
    #[test]
    fn six_bits_are_the_nearest_of_their_grid(numbers in numbers(512)) {
        // The least float16 are 2^-24 apart, and a number is 128 times 32 of them.
        const F16_ERROR: f32 = 4096.0 / (1u32 << 25) as f32;
        let (_dir, checkpoint) = rounded(DType::Q6_K, 256, &numbers);
        let view = checkpoint.tensor("w").unwrap();
        let mut got = vec![0.0; numbers.len()];
        dequantize(DType::Q6_K, &view.bytes, &mut got);
        for (b, block) in view.bytes.chunks_exact(210).enumerate() {
            let unit = f16::from_le_bytes([block[208], block[209]]).to_f32();
            for (g, &scale) in block[192..208].iter().enumerate() {
                let step = unit * f32::from(scale as i8);
                let at = 256 * b + 16 * g;
                for (x, got) in numbers[at..at + 16].iter().zip(&got[at..]) {
                    let nearest = (-32..32).map(|code| (x - step * code as f32).abs()).fold(f32::INFINITY, f32::min);
                    prop_assert!((x - got).abs() <= nearest + 1e-5 * step.abs(), "{} became {}, step {}", x, got, step);
                    let bound = 1.02 * step.abs() + 16.5 * unit.abs() + F16_ERROR;
                    prop_assert!((x - got).abs() <= bound, "{} became {}, step {}", x, got, step);
                }
            }
        }
    }

    /// Packing reads rows in any order, a panel at a time: the numbers are those of the whole tensor.
    #[test]
    fn packed_rows_are_those_of_the_tensor(
        dtype in prop::sample::select([&TYPES[..], &[DType::Q6_K]].concat()),
        numbers in numbers(37 * 256),
    ) {
        let (_dir, checkpoint) = rounded(dtype, 256, &numbers);
        let (view, rows) = (checkpoint.tensor("w").unwrap(), checkpoint.rows("w").unwrap());
        let packed = PackedMatrix::zeroed(dtype, 37, 256).unwrap();
        // SAFETY: one thread.
        unsafe { packed.pack_panels(&*rows, &|row| 36 - row, 0..packed.num_panels()) };
        let (mut got, mut expected) = (vec![0.0; 256], vec![0.0; numbers.len()]);
        dequantize(dtype, &view.bytes, &mut expected);
        for row in 0..37 {
            packed.decode_row(row, &mut got);
            prop_assert_eq!(&got, &expected[(36 - row) * 256..][..256]);
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

/// A Llama of one layer with 256 columns, in float32, whose head is its embedding table.
fn wide_llama() -> tempfile::TempDir {
    const SHAPES: [(&str, [usize; 2]); 8] = [
        ("embed_tokens", [48, 256]),
        ("layers.0.self_attn.q_proj", [256, 256]),
        ("layers.0.self_attn.k_proj", [64, 256]),
        ("layers.0.self_attn.v_proj", [64, 256]),
        ("layers.0.self_attn.o_proj", [256, 256]),
        ("layers.0.mlp.gate_proj", [96, 256]),
        ("layers.0.mlp.up_proj", [96, 256]),
        ("layers.0.mlp.down_proj", [256, 96]),
    ];
    let dir = tempfile::tempdir().unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut add = |name: &str, shape: &[usize], number: &mut dyn FnMut() -> f32| {
        let start = data.len();
        (0..shape.iter().product()).for_each(|_| data.extend(number().to_le_bytes()));
        let offsets = [start, data.len()];
        let tensor = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": offsets});
        header.insert(format!("model.{name}.weight"), tensor);
    };
    let mut state = 1u32;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    SHAPES.iter().for_each(|(name, shape)| add(name, shape, &mut random));
    for name in ["norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm"] {
        add(name, &[256], &mut || 1.0);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 256, "intermediate_size": 96,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 48,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
    });
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

#[test]
fn rounded_models_compute_with_what_their_weights_became() {
    let tokens: Vec<usize> = (1..20).collect();
    let wide = wide_llama();
    for (path, quantization) in [
        (golden("llama3"), Quantization::Int4),
        (golden("phi3"), Quantization::Int4),
        (golden("gemma3"), Quantization::Int8),
        (wide.path().to_owned(), Quantization::Int4),
    ] {
        let name = path.display();
        let source = model::open_as(&path, Some(quantization)).unwrap();
        let logits = reference::logits(&source, &tokens);
        let expected = tokens[1..].iter().zip(&logits).map(|(&next, logits)| {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|&x| f64::from(x - most).exp()).sum();
            f64::from(logits[next] - most) - sum.ln()
        });
        let got = logprobs(&engine(&path, Some(quantization), None), &tokens);
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((f64::from(*got) - expected).abs() < 1e-3, "{name} as {quantization}: {got} and {expected}");
        }
    }
}

#[test]
fn ends_have_more_bits_and_vectors_stay() {
    let wide = wide_llama();
    assert_eq!(type_of(&model::open_as(wide.path(), Some(Quantization::Int4)).unwrap(), Role::Embedding), DType::Q6_K);
    // Rows of 64 are no blocks of 256.
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
