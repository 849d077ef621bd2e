//! Real models against a float32 reference that this project did not write (tests/golden/*.json: Transformers,
//! from the same weights).

use std::path::PathBuf;

use ferrule_engine::config::Activations;
use ferrule_engine::output::TokenLogprob;
use ferrule_engine::{EngineConfig, EngineHandle, GenerateRequest, Prompt, SamplingParams, TokenId};

#[derive(serde::Deserialize)]
struct Golden {
    items: Vec<Item>,
}

#[derive(serde::Deserialize)]
struct Item {
    prompt_text: String,
    prompt_ids: Vec<TokenId>,
    output_ids: Vec<TokenId>,
    output_text: String,
    /// (step, rank) → (token, natural log-probability)
    top5_logprobs_first8: Vec<Vec<(TokenId, f32)>>,
    min_top1_top2_gap: f32,
    argmin_gap_step: usize,
}

fn golden(name: &str) -> Vec<Item> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    let text = std::fs::read_to_string(path).expect("the golden file is in the repository");
    serde_json::from_str::<Golden>(&text).expect("the golden file is JSON").items
}

/// The model from the local store, fetched the first time.
fn engine_with(model: &str, config: EngineConfig) -> EngineHandle {
    let store = ferrule_store::Store::open_default().expect("the model store opens");
    let path = store.locate(model, &mut ferrule_store::Silent).expect("the model can be fetched");
    EngineHandle::load(&path, config).expect("the model loads")
}

fn engine(model: &str, activations: Activations) -> EngineHandle {
    engine_with(model, EngineConfig { activations, kv_cache_memory: Some(256 << 20), ..EngineConfig::default() })
}

fn close_to_reference(ours: &TokenLogprob, reference: &[(TokenId, f32)]) {
    for &(token, logprob) in reference {
        let &(_, found) = ours.top.iter().find(|(id, _)| *id == token).expect("a top-5 token is among our top 10");
        assert!((found - logprob).abs() < 2e-3, "token {token}: {found} against {logprob}");
    }
}

fn exact_mode_agrees(model: &str, name: &str) {
    let engine = engine(model, Activations::F32);
    for item in golden(name) {
        let params = SamplingParams {
            ignore_eos: true,
            logprobs: Some(10),
            skip_special_tokens: false,
            ..SamplingParams::greedy(item.output_ids.len())
        };
        let request = GenerateRequest::new(Prompt::Tokens(item.prompt_ids.clone()), params);
        let output = engine.generate(request).expect("the request runs").outputs.remove(0);

        let tie = item.min_top1_top2_gap < 1e-4;
        let certain = if tie { item.argmin_gap_step } else { item.output_ids.len() };
        assert_eq!(output.token_ids[..certain], item.output_ids[..certain], "{:?}", item.prompt_text);
        if !tie {
            assert_eq!(output.text, item.output_text);
        }
        for (ours, reference) in output.logprobs.iter().zip(&item.top5_logprobs_first8).take(certain) {
            close_to_reference(ours, reference);
        }
    }
}

/// Log-probability and rank of each of the reference's output tokens, given all tokens before it.
fn teacher_forced(engine: &EngineHandle, item: &Item) -> Vec<TokenLogprob> {
    let tokens = [&item.prompt_ids[..], &item.output_ids].concat();
    let params = SamplingParams { prompt_logprobs: Some(0), ..SamplingParams::greedy(0) };
    let output = engine.generate(GenerateRequest::new(Prompt::Tokens(tokens), params)).expect("the request runs");
    output.prompt_logprobs[item.prompt_ids.len() - 1..].to_vec()
}

/// The share of tokens where the reference's are the top ones, and the mean difference of log-probabilities.
fn stays_close(model: &str, name: &str, activations: Activations, least_agreement: f32, most_difference: f32) {
    let (fast, exact) = (engine(model, activations), engine(model, Activations::F32));
    let (mut agree, mut count, mut difference) = (0, 0, 0.0);
    let (mut golden_count, mut golden_difference) = (0, 0.0);
    for item in golden(name) {
        let (ours, reference) = (teacher_forced(&fast, &item), teacher_forced(&exact, &item));
        assert_eq!(ours.len(), item.output_ids.len());
        for (step, (ours, reference)) in ours.iter().zip(&reference).enumerate() {
            agree += usize::from(ours.rank == 0);
            count += 1;
            difference += (ours.logprob - reference.logprob).abs();
            if let Some(top) = item.top5_logprobs_first8.get(step) {
                golden_count += 1;
                golden_difference += (ours.logprob - top[0].1).abs();
            }
        }
    }
    let agreement = agree as f32 / count as f32;
    let (difference, golden_difference) = (difference / count as f32, golden_difference / golden_count as f32);
    println!(
        "{name}, {activations}: top token agrees in {:.1} %, mean difference {difference:.4} and {golden_difference:.4}",
        agreement * 100.0
    );
    assert!(agreement >= least_agreement, "the top token agrees in {agreement}");
    assert!(difference.max(golden_difference) <= most_difference, "{difference}, {golden_difference}");
}

#[test]
fn smollm2_exact_mode_agrees_with_the_reference() {
    exact_mode_agrees("smollm2", "smollm2");
}

#[test]
fn gemma3_exact_mode_agrees_with_the_reference() {
    exact_mode_agrees("gemma3:270m", "gemma3");
}

#[test]
fn smollm2_fast_mode_stays_close_to_the_reference() {
    stays_close("smollm2", "smollm2", Activations::Int8, 0.97, 0.05);
}

#[test]
fn gemma3_fast_mode_stays_close_to_the_reference() {
    stays_close("gemma3:270m", "gemma3", Activations::Int8, 0.97, 0.05);
}

#[test]
fn smollm2_with_bf16_stays_close_to_the_reference() {
    stays_close("smollm2", "smollm2", Activations::Bf16, 0.98, 0.01);
}

#[test]
fn gemma3_with_bf16_stays_close_to_the_reference() {
    stays_close("gemma3:270m", "gemma3", Activations::Bf16, 0.98, 0.01);
}

/// Contexts of several attention chunks, which lanes share when few sequences run.
#[test]
fn long_contexts_do_not_depend_on_company() {
    for (name, file) in [("smollm2", "smollm2"), ("gemma3:270m", "gemma3")] {
        let prompts: Vec<Vec<TokenId>> = golden(file)
            .iter()
            .take(3)
            .map(|item| item.prompt_ids.iter().chain(&item.output_ids).copied().cycle().take(700).collect())
            .collect();
        let run = |config: EngineConfig, together: bool| {
            let engine = engine_with(name, EngineConfig { kv_cache_memory: Some(256 << 20), ..config });
            let params = SamplingParams { ignore_eos: true, logprobs: Some(0), ..SamplingParams::greedy(12) };
            let requests =
                prompts.iter().map(|prompt| GenerateRequest::new(Prompt::Tokens(prompt.clone()), params.clone()));
            let outputs = match together {
                true => engine.generate_all(requests.collect()).expect("the requests run"),
                false => requests.map(|request| engine.generate(request).expect("the request runs")).collect(),
            };
            let bits = |token: &TokenLogprob| (token.token_id, token.logprob.to_bits());
            outputs.iter().map(|output| output.outputs[0].logprobs.iter().map(bits).collect()).collect::<Vec<Vec<_>>>()
        };
        let alone = run(EngineConfig { threads: Some(1), ..EngineConfig::default() }, false);
        assert_eq!(
            run(EngineConfig { threads: Some(2), ..EngineConfig::default() }, false),
            alone,
            "{name}, 2 threads"
        );
        let chunked = EngineConfig { threads: Some(3), max_num_batched_tokens: 100, ..EngineConfig::default() };
        assert_eq!(run(chunked, true), alone, "{name}, together in chunks");
    }
}
