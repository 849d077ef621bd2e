//! Every family on a tiny random checkpoint, against logits that Transformers computed in float32
//! (tests/golden/models, made by its generate.py), and one model's outputs by several roads.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;

use ferrule_engine::config::{Activations, Cores, Isa, KvDtype, Policy, Quantization};
use ferrule_engine::kernels::Kernels;
use ferrule_engine::quantize::{Options, Progress, Scheme, quantize};
use ferrule_engine::{EngineConfig, EngineHandle, GenerateOutput, GenerateRequest, Prompt, SamplingParams, TokenId};

#[allow(dead_code)]
mod containers;
#[allow(dead_code)]
mod twin;

fn models() -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
    let entries = std::fs::read_dir(dir).expect("the golden models are in the repository");
    let mut models: Vec<_> =
        entries.map(|entry| entry.expect("readable").path()).filter(|path| path.is_dir()).collect();
    models.sort();
    assert!(models.len() >= 8, "golden models are missing: {models:?}");
    models
}

fn golden(name: &str) -> PathBuf {
    models().into_iter().find(|model| model.ends_with(name)).expect("a golden model of this name")
}

#[derive(serde::Deserialize)]
struct Expected {
    input_ids: Vec<TokenId>,
    /// Whose logits are below.
    positions: Vec<usize>,
    /// (positions, vocab_size)
    logits: Vec<Vec<f32>>,
}

fn expected(model: &Path) -> Expected {
    let text = std::fs::read_to_string(model.join("expected.json")).expect("expected.json is beside the model");
    serde_json::from_str(&text).expect("expected.json has the right form")
}

fn config(activations: Activations) -> EngineConfig {
    EngineConfig { activations, threads: Some(2), kv_cache_memory: Some(8 << 20), ..EngineConfig::default() }
}

fn load(model: &std::path::Path, config: EngineConfig) -> EngineHandle {
    EngineHandle::load(model, config).unwrap_or_else(|err| panic!("{}: {err}", model.display()))
}

/// Natural log-softmax in f64.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let sum: f64 = logits.iter().map(|&x| (x as f64 - max).exp()).sum();
    logits.iter().map(|&x| x as f64 - max - sum.ln()).collect()
}

#[test]
fn families_agree_with_transformers() {
    for model in models() {
        agrees_with_transformers(&load(&model, config(Activations::F32)), &model);
    }
}

/// Matrices of all experts in one tensor.
#[test]
fn mixtures_in_gguf_files_agree_with_transformers() {
    for name in ["mixtral", "qwen3-moe"] {
        let (model, dir) = (golden(name), tempfile::tempdir().expect("a folder can be made"));
        let path = dir.path().join("twin.gguf");
        let twin = twin::gguf_of(&ferrule_engine::model::open(&model).expect("the model opens"));
        std::fs::write(&path, twin.bytes(3)).expect("there is room");
        agrees_with_transformers(&load(&path, config(Activations::F32)), &model);
    }
}

fn agrees_with_transformers(engine: &EngineHandle, model: &Path) {
    let expected = expected(model);
    for (&position, logits) in expected.positions.iter().zip(&expected.logits) {
        let params = SamplingParams { logprobs: Some(20), ignore_eos: true, ..SamplingParams::greedy(1) };
        let prompt = Prompt::Tokens(expected.input_ids[..=position].to_vec());
        let output = engine.generate(GenerateRequest::new(prompt, params)).expect("the request runs");
        let reference = log_softmax(logits);
        for &(token, found) in &output.outputs[0].logprobs[0].top {
            let wanted = reference[token as usize];
            assert!(
                (f64::from(found) - wanted).abs() < 1e-3,
                "{} position {position} token {token}: {found} against {wanted}",
                model.display()
            );
        }
    }
}

fn greedy(engine: &EngineHandle, prompt: &[TokenId], n: usize) -> (Vec<TokenId>, Vec<u32>) {
    bits(engine.generate(greedy_request(prompt, n)).expect("the request runs"))
}

fn greedy_request(prompt: &[TokenId], n: usize) -> GenerateRequest {
    let params = SamplingParams { ignore_eos: true, logprobs: Some(0), ..SamplingParams::greedy(n) };
    GenerateRequest::new(Prompt::Tokens(prompt.to_vec()), params)
}

/// The tokens of the first choice, and their log-probabilities' bits.
fn bits(mut output: GenerateOutput) -> (Vec<TokenId>, Vec<u32>) {
    let choice = output.outputs.remove(0);
    (choice.token_ids, choice.logprobs.iter().map(|token| token.logprob.to_bits()).collect())
}

/// A request's bits are a function of the request alone: whatever the company, the chunking, the cache,
/// the number of threads and the policy.
#[test]
fn outputs_do_not_depend_on_company() {
    for model in models() {
        for activations in [Activations::F32, Activations::Bf16, Activations::Int8] {
            let config = config(activations);
            let variants = [
                EngineConfig { threads: Some(1), ..config.clone() },
                EngineConfig { threads: Some(3), max_num_batched_tokens: 7, ..config.clone() },
                EngineConfig { policy: Policy::Static, ..config.clone() },
                EngineConfig { max_num_seqs: 2, max_num_batched_tokens: 64, ..config.clone() },
            ];
            agree_with_alone(&model, &config, variants);
        }
    }
}

struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _what: &str, _steps: usize) {}

    fn step(&mut self) -> ferrule_engine::Result<()> {
        Ok(())
    }
}

/// A golden model with int8 weights whose rows have one scale each, for int8 inputs.
fn w8a8(name: &str, dir: &Path) -> PathBuf {
    let (source, made) = (golden(name), dir.join(name));
    let options = Options { calibration_tokens: 512, threads: Some(2), ..Options::new(Scheme::Int8W8A8) };
    quantize(&source, &made, &options, &mut Silent).expect("the model can be quantized");
    std::fs::copy(source.join("expected.json"), made.join("expected.json")).expect("there is room");
    made
}

/// The same where products take wide groups of activations, and with a head that takes them besides, in groups of its own.
#[test]
fn outputs_of_rows_with_one_scale_do_not_depend_on_company() {
    let dir = tempfile::tempdir().expect("a folder can be made");
    for (name, quantization) in [("llama3", None), ("gemma3", Some(Quantization::Int8)), ("mixtral", None)] {
        let model = w8a8(name, dir.path());
        let config = EngineConfig { quantization, ..config(Activations::Int8) };
        let variants = [
            EngineConfig { threads: Some(1), ..config.clone() },
            EngineConfig { threads: Some(3), max_num_batched_tokens: 7, ..config.clone() },
        ];
        agree_with_alone(&model, &config, variants);
    }
}

/// Wide groups of activations beside float32 ones, in every tier: at most three times as far as groups of 32, which the same
/// weights have where nothing says that inputs are to be int8.
#[test]
fn rows_with_one_scale_give_nearly_what_exact_activations_give() {
    let dir = tempfile::tempdir().expect("a folder can be made");
    for name in ["llama3", "gemma3", "mixtral"] {
        let wide = w8a8(name, dir.path());
        let narrow = dir.path().join(format!("{name}-narrow"));
        std::fs::create_dir(&narrow).expect("there is room");
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(wide.join(file), narrow.join(file)).expect("there is room");
        }
        let config_file = narrow.join("config.json");
        let text = std::fs::read_to_string(&config_file).expect("it was copied");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("a config is JSON");
        json["quantization_config"]["config_groups"]["group_0"]["input_activations"].take();
        std::fs::write(&config_file, json.to_string()).expect("there is room");
        let prompt = expected(&wide).input_ids;
        let distance = |model: &Path, isa| {
            let exact = prompt_logprobs(model, config(Activations::F32), &prompt);
            let fast = prompt_logprobs(model, EngineConfig { isa, ..config(Activations::Int8) }, &prompt);
            exact.iter().zip(&fast).map(|(a, b)| (a - b).abs()).sum::<f32>() / exact.len() as f32
        };
        let of_narrow = distance(&narrow, None);
        let tiers = [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16];
        for isa in tiers.into_iter().filter(|&isa| Kernels::new(Some(isa)).is_ok()) {
            let of_wide = distance(&wide, Some(isa));
            assert!(of_wide > 0.0 && of_wide < 3.0 * of_narrow, "{name}, {isa}: {of_wide} beside {of_narrow}");
        }
    }
}

fn prompt_logprobs(model: &Path, config: EngineConfig, prompt: &[TokenId]) -> Vec<f32> {
    let params = SamplingParams { max_tokens: 0, prompt_logprobs: Some(0), ..SamplingParams::default() };
    let request = GenerateRequest::new(Prompt::Tokens(prompt.to_vec()), params);
    let output = load(model, config).generate(request).expect("the request runs");
    output.prompt_logprobs.iter().map(|token| token.logprob).collect()
}

/// The same for every type of cache, with a model that has sliding windows and one that has none.
#[test]
fn outputs_do_not_depend_on_company_whatever_the_cache_holds() {
    for model in ["llama3", "gemma3"].map(golden) {
        for dtype in [KvDtype::F16, KvDtype::Int8, KvDtype::Fp8] {
            let config = EngineConfig { kv_cache_dtype: Some(dtype), ..config(Activations::Int8) };
            let variants = [
                EngineConfig { threads: Some(3), max_num_batched_tokens: 7, ..config.clone() },
                EngineConfig { threads: Some(1), max_num_seqs: 3, ..config.clone() },
            ];
            agree_with_alone(&model, &config, variants);
        }
    }
}

/// Where cores share no cache, and many sequences decode, lanes own sequences.
#[test]
fn outputs_do_not_depend_on_where_cores_are() {
    for model in models() {
        let ids = expected(&model).input_ids.repeat(2);
        let prompts: Vec<_> = (0..24).map(|i| ids[i % 7..i % 7 + 18].to_vec()).collect();
        for activations in [Activations::F32, Activations::Bf16, Activations::Int8] {
            let config = EngineConfig { enable_prefix_caching: false, ..config(activations) };
            let alone = load(&model, config.clone());
            let reference: Vec<_> = prompts.iter().map(|prompt| greedy(&alone, prompt, 6)).collect();
            for (threads, cores) in [(2, Cores::Near), (2, Cores::Far), (3, Cores::Far)] {
                let engine =
                    load(&model, EngineConfig { threads: Some(threads), cores: Some(cores), ..config.clone() });
                let outputs = greedy_together(&engine, &prompts, 6);
                assert_eq!(outputs, reference, "{} by {threads} {cores:?} threads", model.display());
            }
        }
    }
}

/// Chunks of a prefix that several sequences share are computed for all of them at once, beside a sequence of its own.
#[test]
fn outputs_do_not_depend_on_who_shares_a_prefix() {
    let model = golden("llama3");
    let ids = expected(&model).input_ids;
    let text: Vec<TokenId> = ids.iter().copied().cycle().take(600).collect();
    let prompts: Vec<Vec<TokenId>> = [(600, 1), (600, 2), (550, 3), (300, 4), (300, 5), (1, 6)]
        .map(|(prefix, rest)| text[..prefix].iter().chain(&ids[rest..2 * rest]).copied().collect())
        .into();
    for dtype in [KvDtype::F32, KvDtype::Bf16, KvDtype::Int8] {
        let config =
            EngineConfig { kv_cache_dtype: Some(dtype), max_model_len: Some(700), ..config(Activations::Int8) };
        let alone = load(&model, EngineConfig { enable_prefix_caching: false, ..config.clone() });
        let reference: Vec<_> = prompts.iter().map(|prompt| greedy(&alone, prompt, 24)).collect();
        for threads in [1, 3] {
            let engine = load(&model, EngineConfig { threads: Some(threads), ..config.clone() });
            greedy(&engine, &text, 1);
            assert_eq!(greedy_together(&engine, &prompts, 24), reference, "{dtype}, {threads} threads");
        }
    }
}

/// Prompts of many lengths, each alone in an engine without a prefix cache, against all of them at once in the
/// engines of `variants`, and against these once more, when the cache has the prompts.
fn agree_with_alone(model: &Path, config: &EngineConfig, variants: impl IntoIterator<Item = EngineConfig>) {
    let prompts = prompts(model);
    let alone = load(model, EngineConfig { enable_prefix_caching: false, ..config.clone() });
    let reference: Vec<_> = prompts.iter().map(|prompt| greedy(&alone, prompt, 24)).collect();
    for variant in variants {
        let what = format!("{} {variant:?}", model.display());
        let engine = load(model, variant);
        assert_eq!(greedy_together(&engine, &prompts, 24), reference, "together: {what}");
        let cached: Vec<_> = prompts.iter().map(|prompt| greedy(&engine, prompt, 24)).collect();
        assert_eq!(cached, reference, "cached: {what}");
    }
}

/// More than 192 tokens together: of so many, two lanes take each their own.
fn prompts(model: &Path) -> Vec<Vec<TokenId>> {
    let ids = expected(model).input_ids.repeat(2);
    (1..8).map(|i| ids[..ids.len() * i / 8 + 1].to_vec()).collect()
}

/// The engine is held between two steps until it has all prompts, so that they run together.
fn greedy_together(engine: &EngineHandle, prompts: &[Vec<TokenId>], n: usize) -> Vec<(Vec<TokenId>, Vec<u32>)> {
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
    streams.into_iter().map(|stream| bits(stream.collect_output().expect("the request runs"))).collect()
}

/// Blocks are given up and computed again where all sequences do not fit.
#[test]
fn preempted_sequences_continue_as_if_undisturbed() {
    let cases = [("llama3", KvDtype::Int8, 13), ("gemma3", KvDtype::Int8, 26), ("llama3", KvDtype::Fp8, 13)];
    for (model, dtype, num_blocks) in cases {
        let model = golden(model);
        let config = EngineConfig { kv_cache_dtype: Some(dtype), max_model_len: Some(96), ..config(Activations::Int8) };
        let roomy = load(&model, config.clone());
        let block_bytes = roomy.model().kv_cache_bytes / roomy.stats().num_blocks as u64;
        let tight = load(&model, EngineConfig { kv_cache_memory: Some(num_blocks * block_bytes), ..config });
        let prompts = prompts(&model);
        assert_eq!(greedy_together(&tight, &prompts, 24), greedy_together(&roomy, &prompts, 24));
        assert!(tight.stats().num_preemptions > 0, "{} {dtype} had room", model.display());
    }
}

/// The choices of a request share the blocks of its prompt until they write.
#[test]
fn choices_that_copy_a_shared_block_equal_a_request_of_one() {
    for dtype in [KvDtype::Bf16, KvDtype::Int8, KvDtype::Fp8] {
        let model = golden("llama3");
        let engine = load(&model, EngineConfig { kv_cache_dtype: Some(dtype), ..config(Activations::Int8) });
        let prompt = expected(&model).input_ids;
        let (tokens, logprobs) = greedy(&engine, &prompt, 24);
        let params = SamplingParams { n: 3, ignore_eos: true, logprobs: Some(0), ..SamplingParams::greedy(24) };
        let output = engine.generate(GenerateRequest::new(Prompt::Tokens(prompt), params)).expect("the request runs");
        assert_eq!(output.outputs.len(), 3);
        for choice in output.outputs {
            assert_eq!(choice.token_ids, tokens, "{dtype}");
            assert_eq!(choice.logprobs.iter().map(|token| token.logprob.to_bits()).collect::<Vec<_>>(), logprobs);
        }
    }
}

#[test]
fn tiers_agree() {
    for model in models() {
        vector_tiers_agree_with_scalar(&model, &config(Activations::F32), 1e-4);
    }
    for dtype in [KvDtype::Int8, KvDtype::Fp8] {
        // A number between two of the cache's may fall to either in different tiers.
        let config = EngineConfig { kv_cache_dtype: Some(dtype), ..config(Activations::F32) };
        vector_tiers_agree_with_scalar(&golden("llama3"), &config, 1e-2);
    }
}

fn vector_tiers_agree_with_scalar(model: &Path, config: &EngineConfig, bound: f32) {
    let ids = expected(model).input_ids;
    let by_isa = |isa| EngineHandle::load(model, EngineConfig { isa: Some(isa), ..config.clone() });
    let reference = greedy(&by_isa(Isa::Scalar).expect("every machine has the scalar tier"), &ids, 1);
    for isa in [Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16] {
        let Ok(engine) = by_isa(isa) else {
            println!("{isa}: not on this machine");
            continue;
        };
        let found = greedy(&engine, &ids, 1);
        let distance = (f32::from_bits(found.1[0]) - f32::from_bits(reference.1[0])).abs();
        assert!(found.0 == reference.0 && distance < bound, "{} {isa}: {distance}", model.display());
    }
}
