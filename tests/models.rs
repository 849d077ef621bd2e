//! Every family on a tiny random checkpoint, against logits that Transformers computed in float32
//! (tests/golden/models, made by its generate.py), and one model's outputs by several roads.

use std::path::PathBuf;

use ferrule_engine::config::{Activations, Isa, Policy};
use ferrule_engine::{EngineConfig, EngineHandle, GenerateRequest, Prompt, SamplingParams, TokenId};

fn models() -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
    let entries = std::fs::read_dir(dir).expect("the golden models are in the repository");
    let mut models: Vec<_> =
        entries.map(|entry| entry.expect("readable").path()).filter(|path| path.is_dir()).collect();
    models.sort();
    assert!(models.len() >= 8, "golden models are missing: {models:?}");
    models
}

#[derive(serde::Deserialize)]
struct Expected {
    input_ids: Vec<TokenId>,
    /// Whose logits are below.
    positions: Vec<usize>,
    /// (positions, vocab_size)
    logits: Vec<Vec<f32>>,
}

fn expected(model: &std::path::Path) -> Expected {
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
        let engine = load(&model, config(Activations::F32));
        let expected = expected(&model);
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
}

fn greedy(engine: &EngineHandle, prompt: &[TokenId], n: usize) -> (Vec<TokenId>, Vec<u32>) {
    let params = SamplingParams { ignore_eos: true, logprobs: Some(0), ..SamplingParams::greedy(n) };
    let request = GenerateRequest::new(Prompt::Tokens(prompt.to_vec()), params);
    let output = engine.generate(request).expect("the request runs").outputs.remove(0);
    (output.token_ids, output.logprobs.iter().map(|token| token.logprob.to_bits()).collect())
}

/// A request's bits are a function of the request alone: whatever the company, the chunking, the cache,
/// the number of threads and the policy.
#[test]
fn outputs_do_not_depend_on_company() {
    for model in models() {
        let ids = expected(&model).input_ids;
        let prompts: Vec<Vec<TokenId>> = (1..8).map(|i| ids[..ids.len() * i / 8 + 1].to_vec()).collect();
        for activations in [Activations::F32, Activations::Int8] {
            let alone = load(&model, EngineConfig { enable_prefix_caching: false, ..config(activations) });
            let reference: Vec<_> = prompts.iter().map(|prompt| greedy(&alone, prompt, 24)).collect();
            let variants = [
                EngineConfig { threads: Some(1), ..config(activations) },
                EngineConfig { threads: Some(3), max_num_batched_tokens: 7, ..config(activations) },
                EngineConfig { policy: Policy::Static, ..config(activations) },
                EngineConfig { max_num_seqs: 2, max_num_batched_tokens: 64, ..config(activations) },
            ];
            for variant in variants {
                let what = format!("{} {variant:?}", model.display());
                let engine = load(&model, variant);
                let threads: Vec<_> = prompts
                    .iter()
                    .cloned()
                    .map(|prompt| {
                        let engine = engine.clone();
                        std::thread::spawn(move || greedy(&engine, &prompt, 24))
                    })
                    .collect();
                let together: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("it ran")).collect();
                assert_eq!(together, reference, "together: {what}");
                let cached: Vec<_> = prompts.iter().map(|prompt| greedy(&engine, prompt, 24)).collect();
                assert_eq!(cached, reference, "cached: {what}");
            }
        }
    }
}

#[test]
fn tiers_agree() {
    for model in models() {
        let ids = expected(&model).input_ids;
        let by_isa = |isa| EngineHandle::load(&model, EngineConfig { isa: Some(isa), ..config(Activations::F32) });
        let reference = greedy(&by_isa(Isa::Scalar).expect("every machine has the scalar tier"), &ids, 1);
        for isa in [Isa::Avx2, Isa::Avx512] {
            let Ok(engine) = by_isa(isa) else {
                println!("{isa}: not on this machine");
                continue;
            };
            let found = greedy(&engine, &ids, 1);
            let distance = (f32::from_bits(found.1[0]) - f32::from_bits(reference.1[0])).abs();
            assert!(found.0 == reference.0 && distance < 1e-4, "{} {isa}: {distance}", model.display());
        }
    }
}
