//! Whole models on the device against the CPU's exact mode.
//!
//! A GPU computes with bf16 activations, so numbers are compared, not tokens: what the device generated is scored by
//! the CPU, token by token.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use ferrule_engine::config::{Activations, KvDtype, Quantization};
use ferrule_engine::output::TokenLogprob;
use ferrule_engine::{EngineConfig, EngineHandle, GenerateOutput, GenerateRequest, Prompt, SamplingParams, TokenId};
use half::f16;

use crate::twin::{self, Encoded};
use crate::{device, tested_device};

/// What bf16 activations, of 8 bits each, may do to log-probabilities, as a share of the logits' spread: at most, and as
/// the root of the mean square over many tokens.
pub const BF16_NOISE: Bound = Bound { usual: 0.025, most: 0.1 };
/// An E4M3 number is one of 8 between two powers of two: where that noise makes another one of it, it grows. Seen: 0.033 and 0.12.
const FP8_NOISE: Bound = Bound { usual: 0.05, most: 0.2 };

/// Where two experts are all but equally good, that noise decides which one a token takes, and some tokens are off by far more
/// than the rest. Seen: 0.027 and 0.163.
const ROUTED_NOISE: Bound = Bound { usual: 0.04, most: 0.3 };

#[derive(Clone, Copy)]
pub struct Bound {
    usual: f32,
    most: f32,
}

impl Bound {
    /// For what `model` computes.
    pub fn of(self, model: &Path) -> Self {
        let other = if has_experts(model) { ROUTED_NOISE } else { self };
        Self { usual: self.usual.max(other.usual), most: self.most.max(other.most) }
    }
}

/// Of SmolLM2's logits, so that bf16 may do twice what it was seen to do: 0.021 usually, 0.04 at most.
const SMOLLM2_SPREAD: f32 = 2.0;

/// The tiny models whose heads rotate in pairs that GPUs take: 8 rotating dimensions, as in the tiny Phi-3, are refused.
fn models() -> Vec<PathBuf> {
    let names = [
        "gemma2",
        "gemma3",
        "llama-sharded",
        "llama3",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "qwen3-moe",
        "qwen3-yarn",
    ];
    names.map(golden).to_vec()
}

fn has_experts(model: &Path) -> bool {
    ["mixtral", "qwen3-moe"].iter().any(|name| model.ends_with(name))
}

pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models").join(name)
}

#[derive(serde::Deserialize)]
pub struct Expected {
    pub input_ids: Vec<TokenId>,
    /// (positions, vocab_size)
    logits: Vec<Vec<f32>>,
}

pub fn expected(model: &Path) -> Expected {
    let text = std::fs::read_to_string(model.join("expected.json")).expect("expected.json is beside the model");
    serde_json::from_str(&text).expect("expected.json has the right form")
}

/// The root of the mean square of the model's logits.
fn spread(model: &Path) -> f32 {
    root_mean_square(&expected(model).logits.concat())
}

fn root_mean_square(x: &[f32]) -> f32 {
    (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt()
}

pub fn on_device() -> EngineConfig {
    EngineConfig { device: device(), kv_cache_memory: Some(8 << 20), ..EngineConfig::default() }
}

pub fn exact() -> EngineConfig {
    EngineConfig {
        activations: Activations::F32,
        threads: Some(2),
        kv_cache_memory: Some(8 << 20),
        ..EngineConfig::default()
    }
}

pub fn load(model: &Path, config: EngineConfig) -> EngineHandle {
    EngineHandle::load(model, config).unwrap_or_else(|err| panic!("{}: {err}", model.display()))
}

/// Log-probabilities of the prompt's tokens from the second on.
pub fn score(engine: &EngineHandle, tokens: &[TokenId]) -> Vec<f32> {
    let params = SamplingParams { prompt_logprobs: Some(0), ..SamplingParams::greedy(1) };
    let request = GenerateRequest::new(Prompt::Tokens(tokens.to_vec()), params);
    logprobs(&engine.generate(request).expect("the request runs").prompt_logprobs)
}

fn logprobs(tokens: &[TokenLogprob]) -> Vec<f32> {
    tokens.iter().map(|token| token.logprob).collect()
}

/// `found` is `reference` but for the noise of bf16.
pub fn agree(bound: Bound, found: &[f32], reference: &[f32], spread: f32, what: &str) {
    assert_eq!(found.len(), reference.len());
    let differences: Vec<f32> = found.iter().zip(reference).map(|(a, b)| (a - b) / spread).collect();
    let usual = root_mean_square(&differences);
    let most = differences.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    assert!(usual.is_finite() && usual < bound.usual && most < bound.most, "{what}: {usual} usually, {most} at most");
}

#[test]
fn families_agree_with_the_exact_mode() {
    let Some(_device) = tested_device() else { return };
    for model in models() {
        let ids = expected(&model).input_ids;
        let reference = score(&load(&model, exact()), &ids);
        let found = score(&load(&model, on_device()), &ids);
        agree(BF16_NOISE.of(&model), &found, &reference, spread(&model), &model.display().to_string());
    }
}

/// Matrices of 4 and 8 bits stay so on the device.
#[test]
fn quantized_matrices_agree_with_the_exact_mode() {
    let Some(_device) = tested_device() else { return };
    for model in models() {
        let ids = expected(&model).input_ids;
        let mut sizes = vec![load(&model, on_device()).model().weight_bytes];
        for quantization in [Quantization::Int8, Quantization::Int4].map(Some) {
            let what = format!("{} as {quantization:?}", model.display());
            let reference = score(&load(&model, EngineConfig { quantization, ..exact() }), &ids);
            let device = load(&model, EngineConfig { quantization, ..on_device() });
            agree(BF16_NOISE.of(&model), &score(&device, &ids), &reference, spread(&model), &what);
            sizes.push(device.model().weight_bytes);
        }
        assert!(sizes.is_sorted_by(|larger, smaller| larger > smaller), "{} takes {sizes:?}", model.display());
    }
}

/// A folder's model as a GGUF file: how its matrices are encoded. None: as float32.
fn as_gguf(model: &Path, encode: Option<fn(&[f32]) -> Encoded>) -> (tempfile::TempDir, PathBuf) {
    let source = ferrule_engine::model::open(model).expect("the model opens");
    let is_matrix = |name: &str| name.starts_with("blk.") && !name.contains("norm") && !name.contains("inp");
    let encode = |name: &str, numbers: &[f32]| encode.filter(|_| is_matrix(name)).map(|encode| encode(numbers));
    let dir = tempfile::tempdir().expect("a folder can be made");
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, twin::gguf_with(&source, &encode).bytes(3)).expect("there is room");
    (dir, path)
}

fn to_f16(numbers: &[f32]) -> Encoded {
    (1, numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect())
}

/// Blocks of 32: a power of two, and the nearest numbers of E2M1.
fn to_mxfp4(numbers: &[f32]) -> Encoded {
    const VALUES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let block = |block: &[f32]| {
        let largest = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let exponent = largest.log2().floor() - 2.0;
        let code = |x: f32| {
            let distance = |i: &usize| ((x.abs() / exponent.exp2() - VALUES[*i]).abs() * 1e6) as u32;
            let size = (0..8).min_by_key(distance).expect("there are 8");
            size as u8 | u8::from(x < 0.0) << 3
        };
        let pairs = (0..16).map(|i| code(block[i]) | code(block[16 + i]) << 4);
        std::iter::once((exponent + 127.0) as u8).chain(pairs).collect::<Vec<_>>()
    };
    (39, numbers.chunks_exact(32).flat_map(block).collect())
}

/// Mixtures whose experts lie in one tensor, and numbers of f16 and of E2M1 that stay so.
#[test]
fn gguf_files_agree_with_the_exact_mode() {
    let Some(_device) = tested_device() else { return };
    for name in ["mixtral", "qwen3-moe", "llama3"] {
        let (model, mut sizes) = (golden(name), Vec::new());
        for (kind, encode) in [("F32", None), ("F16", Some(to_f16 as fn(&[f32]) -> Encoded)), ("MXFP4", Some(to_mxfp4))]
        {
            let (_dir, path) = as_gguf(&model, encode);
            let ids = expected(&model).input_ids;
            let reference = score(&load(&path, exact()), &ids);
            let device = load(&path, on_device());
            let what = format!("{name} in {kind}");
            agree(BF16_NOISE.of(&model), &score(&device, &ids), &reference, spread(&model), &what);
            sizes.push(device.model().weight_bytes);
        }
        assert!(sizes[0] == sizes[1] && sizes[2] < sizes[0] / 2, "{name} takes {sizes:?} bytes");
    }
}

fn greedy_request(prompt: &[TokenId], n: usize) -> GenerateRequest {
    let params = SamplingParams { ignore_eos: true, logprobs: Some(0), ..SamplingParams::greedy(n) };
    GenerateRequest::new(Prompt::Tokens(prompt.to_vec()), params)
}

/// The engine is held between two steps until it has all prompts, so that they run together.
pub fn generate_together(engine: &EngineHandle, prompts: &[Vec<TokenId>], n: usize) -> Vec<GenerateOutput> {
    let (held, is_held) = channel();
    let (release, released) = channel::<()>();
    engine.watch(move |_| {
        held.send(()).expect("the test waits");
        released.recv().expect_err("the sender is dropped");
    });
    is_held.recv().expect("the engine runs");
    let streams: Vec<_> = prompts
        .iter()
        .map(|prompt| engine.stream(greedy_request(prompt, n)).expect("the request is admitted"))
        .collect();
    drop(release);
    streams.into_iter().map(|stream| stream.collect_output().expect("the request runs")).collect()
}

pub fn prompts(model: &Path) -> Vec<Vec<TokenId>> {
    let ids = expected(model).input_ids;
    (1..8).map(|i| ids[..ids.len() * i / 8 + 1].to_vec()).collect()
}

/// What the device said of its own tokens is what the exact mode says of them.
pub fn generated_as_exact(model: &Path, prompts: &[Vec<TokenId>], outputs: &[GenerateOutput], what: &str) {
    generated_as(exact(), BF16_NOISE, model, prompts, outputs, what);
}

fn generated_as(
    exact: EngineConfig,
    bound: Bound,
    model: &Path,
    prompts: &[Vec<TokenId>],
    outputs: &[GenerateOutput],
    what: &str,
) {
    let (found, reference) = generated_and_scored(exact, model, prompts, outputs);
    agree(bound.of(model), &found, &reference, spread(model), what);
}

/// Log-probabilities of generated tokens: the device's, and the exact mode's.
pub fn generated_and_scored(
    exact: EngineConfig,
    model: &Path,
    prompts: &[Vec<TokenId>],
    outputs: &[GenerateOutput],
) -> (Vec<f32>, Vec<f32>) {
    let exact = load(model, exact);
    let (mut found, mut reference) = (Vec::new(), Vec::new());
    for (prompt, output) in prompts.iter().zip(outputs) {
        for choice in &output.outputs {
            let tokens = [&prompt[..], &choice.token_ids].concat();
            found.extend(logprobs(&choice.logprobs));
            reference.extend_from_slice(&score(&exact, &tokens)[prompt.len() - 1..]);
        }
    }
    (found, reference)
}

/// Chunked prompts beside decoding sequences, prefix hits, and batches that graphs pad.
#[test]
fn generation_agrees_with_the_exact_mode_whatever_the_company() {
    let Some(_device) = tested_device() else { return };
    for model in models() {
        let prompts = prompts(&model);
        let variants = [
            EngineConfig { max_num_batched_tokens: 7, ..on_device() },
            EngineConfig { max_num_seqs: 3, max_num_batched_tokens: 64, ..on_device() },
        ];
        for variant in variants {
            let what = format!("{} {variant:?}", model.display());
            let engine = load(&model, variant);
            generated_as_exact(&model, &prompts, &generate_together(&engine, &prompts, 10), &what);
            let cached: Vec<_> =
                prompts.iter().map(|prompt| engine.generate(greedy_request(prompt, 4)).unwrap()).collect();
            assert!(engine.stats().prefix_cache_hits > 0, "{what}");
            generated_as_exact(&model, &prompts, &cached, &what);
        }
    }
}

/// Of all tokens with log-probabilities: the prompt's, then the first choice's.
fn bits(output: &GenerateOutput) -> Vec<(TokenId, u32)> {
    let tokens = output.prompt_logprobs.iter().chain(&output.outputs[0].logprobs);
    tokens.map(|token| (token.token_id, token.logprob.to_bits())).collect()
}

/// Whatever the number of rows in a step is: it decides which kernels run and how they share the work.
#[test]
fn a_request_gives_the_same_bits_alone_and_in_company() {
    let Some(_device) = tested_device() else { return };
    for model in models() {
        let prompts = prompts(&model);
        for quantization in [None, Some(Quantization::Int8), Some(Quantization::Int4)] {
            let config = EngineConfig { quantization, enable_prefix_caching: false, ..on_device() };
            let engine = load(&model, config);
            let together = generate_together(&engine, &prompts, 6);
            for (prompt, together) in prompts.iter().zip(&together) {
                let alone = engine.generate(greedy_request(prompt, 6)).expect("the request runs");
                assert_eq!(bits(&alone), bits(together), "{} {quantization:?}", model.display());
            }
        }
    }
}

/// What a token is, of the prompt or generated, decides which kernel attends, and its position how that sums: not which other
/// tokens its step has, nor what was in the cache before.
#[test]
fn a_prompt_gives_the_same_bits_however_it_is_cut() {
    let Some(_device) = tested_device() else { return };
    // With windows of 8 positions in some layers or all of them, and without.
    let names = ["gemma2", "gemma3", "mistral", "llama3", "qwen3", "mixtral"].map(|name| (name, KvDtype::Bf16));
    for (name, dtype) in names.into_iter().chain(["gemma3", "llama3"].map(|name| (name, KvDtype::Int8))) {
        let model = golden(name);
        // Windows reach over the ends of tiles of keys, wherever these begin; and a token is left behind whole blocks.
        let prompt: Vec<TokenId> = expected(&model).input_ids.into_iter().cycle().take(129).collect();
        let request = |logprobs, len: usize| {
            let mut request = greedy_request(&prompt[..len], 4);
            request.params.prompt_logprobs = logprobs;
            request
        };
        let config = EngineConfig { kv_cache_dtype: Some(dtype), ..on_device() };
        let [whole, chunked @ ..] = [prompt.len(), 1, 7, 128].map(|max_num_batched_tokens| {
            let config = EngineConfig { max_num_batched_tokens, ..config.clone() };
            bits(&load(&model, config).generate(request(Some(0), prompt.len())).expect("the request runs"))
        });
        assert_eq!(whole.len(), prompt.len() - 1 + 4);
        for chunked in chunked {
            assert_eq!(chunked, whole, "{} over {dtype}", model.display());
        }
        let engine = load(&model, config);
        // The last one finds all but its last token.
        let cached = [40, 113, prompt.len(), prompt.len()]
            .map(|len| bits(&engine.generate(request(None, len)).expect("the request runs")));
        assert!(engine.stats().prefix_cache_hits >= 32 + 112 + 128, "{:?}", engine.stats());
        for cached in &cached[2..] {
            assert_eq!(*cached, whole[prompt.len() - 1..], "{} over {dtype}", model.display());
        }
    }
}

/// Who asks for log-probabilities has tokens chosen by the CPU, others by the device: from the same logits.
#[test]
fn the_device_chooses_the_tokens_that_the_cpu_chooses() {
    let Some(_device) = tested_device() else { return };
    let model = golden("qwen3");
    let engine = load(&model, on_device());
    let prompt = expected(&model).input_ids;
    let base = SamplingParams { seed: Some(7), temperature: 0.9, ..greedy_request(&prompt, 16).params };
    let variants = [
        SamplingParams { temperature: 0.0, ..base.clone() },
        base.clone(),
        SamplingParams { n: 3, temperature: 1.5, ..base.clone() },
        SamplingParams { top_k: 5, ..base.clone() },
        SamplingParams { top_p: 0.7, ..base.clone() },
        SamplingParams { min_p: 0.1, top_k: 40, top_p: 0.95, ..base.clone() },
        SamplingParams { repetition_penalty: 1.3, presence_penalty: 0.5, frequency_penalty: 0.4, ..base.clone() },
        SamplingParams { logit_bias: vec![(5, 4.0), (9, -100.0)], min_tokens: 8, stop_token_ids: vec![5], ..base },
    ];
    for params in variants {
        let tokens = |logprobs| -> Vec<Vec<TokenId>> {
            let params = SamplingParams { logprobs, ..params.clone() };
            let request = GenerateRequest::new(Prompt::Tokens(prompt.clone()), params);
            let output = engine.generate(request).expect("the request runs");
            output.outputs.into_iter().map(|choice| choice.token_ids).collect()
        };
        assert_eq!(tokens(None), tokens(Some(0)), "{params:?}");
    }
}

/// Requests of every kind, in an order and company that seeds choose: prompts that share beginnings, several choices, penalties,
/// minimum lengths, tokens that end an answer, and here and there log-probabilities, for which the host chooses.
fn workload(ids: &[TokenId], seed: u64) -> Vec<GenerateRequest> {
    let mut state = seed;
    let mut below = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    (0..10)
        .map(|_| {
            let prompt = ids[..2 + below(ids.len() as u64 - 2) as usize].to_vec();
            let params = SamplingParams {
                n: 1 + below(3) as usize,
                max_tokens: 1 + below(20) as usize,
                min_tokens: below(2) as usize,
                temperature: if below(2) == 0 { 0.0 } else { 1.2 },
                top_k: below(2) as usize * 30,
                top_p: if below(3) == 0 { 0.9 } else { 1.0 },
                repetition_penalty: if below(3) == 0 { 1.2 } else { 1.0 },
                frequency_penalty: if below(3) == 0 { 0.4 } else { 0.0 },
                stop_token_ids: (0..below(40)).map(|i| i as TokenId * 3).collect(),
                logprobs: (below(8) == 0).then_some(0),
                seed: Some(below(1 << 20)),
                ..SamplingParams::default()
            };
            GenerateRequest::new(Prompt::Tokens(prompt), params)
        })
        .collect()
}

/// Steps that are launched before the tokens of the one before are known read them on the device, and one that was launched in
/// vain leaves no trace.
#[test]
fn answers_are_the_same_ahead_and_behind() {
    let Some(_device) = tested_device() else { return };
    for model in ["llama3", "gemma3", "qwen3-moe"].map(golden) {
        let ids = expected(&model).input_ids;
        let engines = [true, false].map(|async_scheduling| {
            let config = EngineConfig { async_scheduling, max_num_seqs: 6, max_num_batched_tokens: 40, ..on_device() };
            load(&model, config)
        });
        for seed in 0..4 {
            let [ahead, behind] = engines.each_ref().map(|engine| {
                let outputs = engine.generate_all(workload(&ids, seed)).expect("the requests run");
                outputs.iter().map(|output| format!("{:?}", output.outputs)).collect::<Vec<_>>()
            });
            assert_eq!(ahead, behind, "{} of seed {seed}", model.display());
        }
        for engine in engines {
            assert_eq!(engine.stats().num_used_blocks, 0);
        }
    }
}

/// Blocks are given up and computed again where all sequences do not fit: what was generated to the same bits as before.
#[test]
fn preempted_sequences_are_as_if_nothing_had_happened() {
    let Some(_device) = tested_device() else { return };
    let cases = [("llama3", 13, KvDtype::Bf16), ("gemma3", 26, KvDtype::Int8), ("mixtral", 13, KvDtype::Bf16)];
    for (model, num_blocks, dtype) in cases {
        let model = golden(model);
        // Fewer sequences than a preempted one has tokens to compute again.
        let config =
            EngineConfig { max_model_len: Some(96), max_num_seqs: 6, kv_cache_dtype: Some(dtype), ..on_device() };
        let roomy = load(&model, config.clone());
        let block_bytes = roomy.model().kv_cache_bytes / roomy.stats().num_blocks as u64;
        let tight = load(&model, EngineConfig { kv_cache_memory: Some(num_blocks * block_bytes), ..config });
        let prompts = prompts(&model);
        let [undisturbed, preempted] = [&roomy, &tight].map(|engine| generate_together(engine, &prompts, 24));
        assert!(tight.stats().num_preemptions > 0, "{} had room", model.display());
        assert_eq!(roomy.stats().num_preemptions, 0);
        for (undisturbed, preempted) in undisturbed.iter().zip(&preempted) {
            assert_eq!(undisturbed.outputs, preempted.outputs, "{} over {dtype}", model.display());
        }
    }
}

/// What is in the cache comes back from host memory to the bit.
#[test]
fn swapped_sequences_are_as_if_nothing_had_happened() {
    let Some(_device) = tested_device() else { return };
    let cases = [("llama3", 13, KvDtype::Bf16), ("gemma3", 26, KvDtype::Bf16), ("mixtral", 13, KvDtype::Int8)];
    for (model, num_blocks, dtype) in cases {
        let model = golden(model);
        let config = EngineConfig {
            max_model_len: Some(96),
            kv_cache_dtype: Some(dtype),
            enable_prefix_caching: false,
            ..on_device()
        };
        let roomy = load(&model, config.clone());
        let block_bytes = roomy.model().kv_cache_bytes / roomy.stats().num_blocks as u64;
        let kv_cache_memory = Some(num_blocks * block_bytes);
        let tight = load(&model, EngineConfig { kv_cache_memory, swap_space: 60 * block_bytes, ..config });
        let prompts = prompts(&model);
        let [undisturbed, swapped] = [&roomy, &tight].map(|engine| generate_together(engine, &prompts, 24));
        assert!(tight.stats().num_swapped_blocks > 0, "{} had room", model.display());
        assert_eq!(roomy.stats().num_preemptions, 0);
        for (undisturbed, swapped) in undisturbed.iter().zip(&swapped) {
            assert_eq!(undisturbed.outputs, swapped.outputs, "{} over {dtype}", model.display());
        }
        // The same with tokens that the device chooses, launched ahead.
        let params = SamplingParams {
            n: 6,
            seed: Some(5),
            ..SamplingParams { logprobs: None, ..greedy_request(&[], 30).params }
        };
        let params = SamplingParams { temperature: 1.0, ..params };
        let chosen = [&roomy, &tight].map(|engine| {
            let request = GenerateRequest::new(Prompt::Tokens(prompts[2].clone()), params.clone());
            engine.generate(request).expect("the request runs").outputs
        });
        assert_eq!(chosen[0], chosen[1], "{} over {dtype}", model.display());
    }
}

/// The model with positions up to `max_position`.
pub fn lengthened(model: &Path, max_position: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder can be made");
    for entry in std::fs::read_dir(model).expect("the model is there") {
        let entry = entry.expect("the folder can be read");
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("there is room");
    }
    let path = folder.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = max_position.into();
    std::fs::write(path, config.to_string()).unwrap();
    folder
}

/// Scales are of a position and head on both sides, and so are the codes, but for the noise of what they round.
#[test]
fn narrow_caches_agree_with_the_exact_mode_over_the_same_type() {
    let Some(_device) = tested_device() else { return };
    for (dtype, bound) in [(KvDtype::Int8, BF16_NOISE), (KvDtype::Fp8, FP8_NOISE)] {
        let kv_cache_dtype = Some(dtype);
        // With so much noise, tokens take other experts all the time.
        let comparable = |model: &PathBuf| dtype != KvDtype::Fp8 || !has_experts(model);
        for model in models().into_iter().filter(comparable) {
            let what = format!("{} over {dtype}", model.display());
            let config = EngineConfig { kv_cache_dtype, max_num_batched_tokens: 7, ..on_device() };
            let (device, prompts) = (load(&model, config), prompts(&model));
            let exact = EngineConfig { kv_cache_dtype, ..exact() };
            let outputs = generate_together(&device, &prompts, 10);
            generated_as(exact, bound, &model, &prompts, &outputs, &what);
        }
    }
}

#[test]
fn narrow_caches_take_fewer_bytes_and_copy_shared_blocks() {
    let Some(_device) = tested_device() else { return };
    let model = golden("llama3");
    let prompt = expected(&model).input_ids;
    let types = [(KvDtype::Bf16, BF16_NOISE), (KvDtype::Int8, BF16_NOISE), (KvDtype::Fp8, FP8_NOISE)];
    let bytes = types.map(|(dtype, bound)| {
        let engine = load(&model, EngineConfig { kv_cache_dtype: Some(dtype), ..on_device() });
        let params = SamplingParams { n: 3, temperature: 0.5, seed: Some(7), ..greedy_request(&prompt, 20).params };
        let request = GenerateRequest::new(Prompt::Tokens(prompt.clone()), params);
        let output = engine.generate(request).expect("the request runs");
        let exact = EngineConfig { kv_cache_dtype: Some(dtype), ..exact() };
        generated_as(exact, bound, &model, std::slice::from_ref(&prompt), &[output], "three choices");
        engine.model().kv_cache_bytes / engine.stats().num_blocks as u64
    });
    // Heads of 16 dimensions are padded to 64.
    assert_eq!(bytes, [2 * 64, 64 + 4, 64].map(|head| 2 * 2 * 2 * 16 * head));
}

/// Pieces of a context are attended to by several blocks and merged.
#[test]
fn long_contexts_agree_with_the_exact_mode() {
    let Some(_device) = tested_device() else { return };
    let folder = lengthened(&golden("llama3"), 1024);
    let ids: Vec<TokenId> = expected(folder.path()).input_ids.into_iter().cycle().take(700).collect();
    let prompts = [ids[..300].to_vec(), ids];
    let engine = load(folder.path(), on_device());
    let outputs = generate_together(&engine, &prompts, 4);
    generated_as_exact(folder.path(), &prompts, &outputs, "contexts of 300 and 700");
}

/// The choices of a request share the blocks of its prompt until they write.
#[test]
fn choices_that_copy_a_shared_block_agree_with_the_exact_mode() {
    let Some(_device) = tested_device() else { return };
    let model = golden("llama3");
    let engine = load(&model, on_device());
    let prompt = expected(&model).input_ids;
    let params = SamplingParams { n: 3, temperature: 1.0, ..greedy_request(&prompt, 20).params };
    let output =
        engine.generate(GenerateRequest::new(Prompt::Tokens(prompt.clone()), params)).expect("the request runs");
    assert_eq!(output.outputs.len(), 3);
    generated_as_exact(&model, &[prompt], &[output], "three choices");
}

#[test]
fn settings_that_only_the_other_device_has_are_refused() {
    let Some(_device) = tested_device() else { return };
    let model = golden("llama3");
    let refused = |config| EngineHandle::load(&model, config).err().expect("refused").to_string();
    let error = refused(EngineConfig { activations: Activations::F32, ..on_device() });
    assert!(error.contains("activations is f32"), "{error}");
    let error =
        EngineHandle::load(&model, EngineConfig { swap_space: 1 << 20, ..exact() }).err().expect("refused").to_string();
    assert!(error.contains("swap_space is 1.0 MiB on the device 'cpu'"), "{error}");
    let error = refused(EngineConfig { kv_cache_dtype: Some(KvDtype::F16), ..on_device() });
    assert!(error.contains("kv_cache_dtype is f16"), "{error}");
    let error = EngineHandle::load(&golden("phi3"), on_device()).err().expect("refused").to_string();
    assert!(error.contains("8 rotating dimensions"), "{error}");
}

/// A real model from the local store, against log-probabilities that Transformers found with the same weights in float32.
#[test]
fn smollm2_answers_a_prompt() {
    #[derive(serde::Deserialize)]
    struct Golden {
        items: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        prompt_ids: Vec<TokenId>,
        output_ids: Vec<TokenId>,
        /// (step, rank) → (token, natural log-probability)
        top5_logprobs_first8: Vec<Vec<(TokenId, f32)>>,
    }
    let Some(_device) = tested_device() else { return };
    let store = ferrule_store::Store::open_default().expect("the model store opens");
    let path = store.locate("smollm2", &mut ferrule_store::Silent).expect("the model can be fetched");
    let golden = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let shortest = golden.items.iter().min_by_key(|item| item.prompt_ids.len()).expect("the golden file has items");
    let reference: Vec<f32> = shortest.top5_logprobs_first8.iter().map(|top| top[0].1).collect();
    let tokens = [&shortest.prompt_ids[..], &shortest.output_ids[..reference.len()]].concat();

    let engine = load(&path, EngineConfig { max_model_len: Some(512), kv_cache_memory: Some(64 << 20), ..on_device() });
    // Its matrices are Q4_1, of 5 bits a weight; the embedding, which is the head too, is bf16.
    assert!(engine.model().weight_bytes < 130_000_000, "{} bytes of weights", engine.model().weight_bytes);
    let found = score(&engine, &tokens);
    agree(BF16_NOISE, &found[shortest.prompt_ids.len() - 1..], &reference, SMOLLM2_SPREAD, "smollm2");
    let next = engine.generate(greedy_request(&tokens, 2)).expect("the request runs");
    assert_eq!(next.outputs[0].token_ids, shortest.output_ids[reference.len()..][..2]);
}
