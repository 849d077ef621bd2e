//! What is refused, at once and with the numbers; and who waits.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use ferrule_engine::config::Policy;
use ferrule_engine::error::Fault;
use ferrule_engine::null::NullModel;
use ferrule_engine::request::Task;
use ferrule_engine::{ChatMessage, EngineConfig, Error, Event, FinishReason, GenerateRequest, Prompt, SamplingParams};

use crate::world::*;

/// The refusal of `request`, which must name all of `parts`.
fn refused(request: GenerateRequest, parts: &[&str]) {
    let engine = engine(EngineConfig { max_num_seqs: 4, ..EngineConfig::default() });
    let error = engine.generate(request).unwrap_err();
    assert_eq!(error.fault(), Fault::Caller, "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "'{error}' does not say '{part}'");
    }
}

#[test]
fn refusals_name_the_limit_and_the_value() {
    let greedy = SamplingParams::greedy;
    refused(request(&[1; 96], greedy(5)), &["96 tokens", "one more", "max_model_len", "is 96"]);
    refused(request(&[1; 97], greedy(0)), &["97 tokens", "max_model_len", "96"]);
    refused(request(&[], greedy(5)), &["empty"]);
    refused(request(&[1, 9], greedy(5)), &["token 1", "9", "8 tokens"]);
    refused(request(&[1], SamplingParams { n: 5, ..greedy(5) }), &["n is 5", "at most 4"]);
    refused(request(&[1], SamplingParams { top_p: 0.0, ..greedy(5) }), &["top_p", "0"]);
    refused(request(&[1], SamplingParams { stop: vec!["x".into()], ..greedy(5) }), &["stop", "tokenizer"]);
    refused(GenerateRequest::new(Prompt::Text("hi".into()), greedy(5)), &["tokenizer"]);
    let chat = Prompt::Chat(vec![ChatMessage::new("user", "hi")]);
    refused(GenerateRequest::new(chat, greedy(5)), &["no chat template"]);
}

#[test]
fn a_prompt_beyond_the_kv_cache_is_refused_and_a_long_output_ends_there() {
    let engine = engine_of(NullModel::new(null_config(16)), EngineConfig::default());
    let error = engine.generate(request(&[1; 80], SamplingParams::greedy(5))).unwrap_err().to_string();
    assert!(error.contains("80 tokens") && error.contains("KV cache"), "{error}");
    let output = engine.generate(request(&[1; 8], SamplingParams::greedy(1000))).unwrap();
    assert_eq!(output.outputs[0].finish_reason, FinishReason::Length);
    assert!(output.outputs[0].token_ids.len() < 80);
}

#[test]
fn output_ends_at_the_length_of_the_model_and_prompts_are_never_cut() {
    let engine = engine(EngineConfig::default());
    let output = engine.generate(request(&[1; 90], SamplingParams::greedy(50))).unwrap();
    assert_eq!(output.prompt_token_ids, [1; 90]);
    assert_eq!(output.outputs[0].token_ids.len(), MAX_MODEL_LEN - 90);
    assert_eq!(output.outputs[0].finish_reason, FinishReason::Length);
    let whole = engine.generate(request(&[1; MAX_MODEL_LEN], SamplingParams::greedy(0))).unwrap();
    assert!(whole.outputs[0].token_ids.is_empty());
    let embed = GenerateRequest { task: Task::Embed, ..request(&[1; MAX_MODEL_LEN], SamplingParams::greedy(7)) };
    let embedding = engine.generate(embed).unwrap().embedding.unwrap();
    assert!((embedding.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
}

#[test]
fn a_full_queue_refuses_at_once_and_generate_all_waits_for_room() {
    let config = EngineConfig { max_num_seqs: 1, max_queue_len: 2, ..EngineConfig::default() };
    let (engine, gate) = gated_engine(config);
    let ask = || request(&[1, 2, 3], SamplingParams::greedy(4));
    let running = engine.stream(ask()).unwrap();
    wait_until(&engine, |stats| stats.num_running == 1);
    let waiting = [engine.stream(ask()).unwrap(), engine.stream(ask()).unwrap()];
    let error = engine.generate(ask()).unwrap_err();
    assert!(matches!(error, Error::Overloaded { queued: 2, limit: 2 }), "{error}");
    drop(gate);
    let all = engine.generate_all(vec![ask(); 10]).unwrap();
    for stream in waiting.into_iter().chain([running]) {
        assert_eq!(said(&stream.collect_output().unwrap()), said(&all[9]));
    }
}

#[test]
fn higher_priority_runs_earlier() {
    let (engine, gate) = gated_engine(EngineConfig { max_num_seqs: 1, ..EngineConfig::default() });
    let order = Arc::new(Mutex::new(Vec::new()));
    let submit = |priority: i32| {
        let order = order.clone();
        let request = GenerateRequest { priority, ..request(&[1, 2], SamplingParams::greedy(3)) };
        let sink = move |event| {
            if matches!(event, Event::Done(_)) {
                order.lock().unwrap().push(priority);
            }
            ControlFlow::Continue(())
        };
        engine.submit(request, sink).unwrap();
    };
    submit(9);
    wait_until(&engine, |stats| stats.num_running == 1);
    [0, 5, 1, 7].into_iter().for_each(submit);
    drop(gate);
    wait_until(&engine, |stats| stats.num_finished == 5);
    engine.shutdown();
    assert_eq!(*order.lock().unwrap(), [9, 7, 5, 1, 0]);
}

/// The baseline that continuous batching is measured against, without a clock.
#[test]
fn static_batches_take_twice_the_steps_on_mixed_lengths() {
    let num_steps = [Policy::Static, Policy::Continuous].map(|policy| {
        let (engine, gate) = gated_engine(EngineConfig { max_num_seqs: 8, policy, ..EngineConfig::default() });
        let lengths = (0..64).map(|i| 1 << (i * 5 % 7));
        let streams: Vec<_> =
            lengths.map(|len| engine.stream(request(&[1, 2], SamplingParams::greedy(len))).unwrap()).collect();
        drop(gate);
        streams.into_iter().for_each(|stream| drop(stream.collect_output().unwrap()));
        engine.stats().num_steps
    });
    assert!(num_steps[0] >= 2 * num_steps[1], "static and continuous: {num_steps:?} steps");
}
