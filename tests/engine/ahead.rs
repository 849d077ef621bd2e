//! A step that is launched before the tokens of the one before are known gives the same answers.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;

use ferrule_engine::null::NullConfig;
use ferrule_engine::{EngineConfig, EngineHandle, Event, GenerateRequest, SamplingParams};
use proptest::prelude::*;

use crate::equal::{alone, configs, requests};
use crate::world::*;

/// Mostly without log-probabilities, for which the host chooses.
fn mostly_chosen() -> impl Strategy<Value = Vec<GenerateRequest>> {
    let keeps = prop::collection::vec(prop::bool::weighted(0.15), 9);
    (requests(), keeps, any::<bool>()).prop_map(|(mut requests, keeps, penalized)| {
        for (request, keeps) in requests.iter_mut().zip(keeps) {
            let params = &mut request.params;
            if !keeps {
                (params.logprobs, params.prompt_logprobs) = (None, None);
            }
            params.min_tokens = params.max_tokens / 4;
            params.repetition_penalty = if penalized { 1.5 } else { 1.0 };
        }
        requests
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Whatever runs beside, is preempted, shares a prefix or ends in between.
    #[test]
    fn answers_are_the_same_ahead_and_behind(
        requests in mostly_chosen(),
        config in configs(),
        spare_blocks in 0usize..40,
        num_host_blocks in prop_oneof![Just(0usize), 1usize..40],
        async_scheduling in prop::bool::weighted(0.8),
    ) {
        let expected = alone(&requests);
        let model = LaggingModel::new(NullConfig { num_host_blocks, ..null_config(36 + spare_blocks) });
        let num_ahead = model.num_ahead.clone();
        let engine = engine_of(model, EngineConfig { async_scheduling, ..config });
        for _ in 0..2 {
            let outputs = engine.generate_all(requests.clone()).unwrap();
            prop_assert_eq!(outputs.iter().map(said).collect::<Vec<_>>(), expected.clone());
        }
        prop_assert!(async_scheduling || num_ahead.load(Ordering::Relaxed) == 0);
        prop_assert_eq!((engine.stats().num_used_blocks, engine.stats().num_running), (0, 0));
    }

    /// Clients that leave at any token disturb nobody.
    #[test]
    fn who_leaves_disturbs_nobody(requests in mostly_chosen(), config in configs(), patience in 1usize..6) {
        let expected = alone(&requests);
        let engine = engine_of(LaggingModel::new(null_config(60)), config);
        for request in &requests {
            let mut left = patience;
            let sink = move |_: Event| {
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            engine.submit(request.clone(), sink).unwrap();
        }
        let outputs = engine.generate_all(requests.clone()).unwrap();
        prop_assert_eq!(outputs.iter().map(said).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn every_decode_step_but_the_first_runs_ahead() {
    let model = LaggingModel::new(null_config(512));
    let num_ahead = model.num_ahead.clone();
    let engine = engine_of(model, EngineConfig { max_num_batched_tokens: 5, ..EngineConfig::default() });
    let answer = engine.generate(request(&[1, 2, 3, 4, 5, 6, 7], SamplingParams::greedy(9))).unwrap();
    assert_eq!(answer.outputs[0].token_ids.len(), 9);
    // Two steps for the prompt, eight after its first token.
    assert_eq!((engine.stats().num_steps, num_ahead.load(Ordering::Relaxed)), (10, 8));
}

#[test]
fn a_token_that_ends_an_answer_leaves_one_step_too_many_and_no_trace() {
    let params = SamplingParams { max_tokens: 60, ..SamplingParams::greedy(60) };
    let whole = engine(EngineConfig::default()).generate(request(&[1, 2], params.clone())).unwrap();
    let stop = whole.outputs[0].token_ids[5];
    let first = whole.outputs[0].token_ids.iter().position(|&token| token == stop).unwrap();
    let device = engine_of(LaggingModel::new(null_config(512)), EngineConfig::default());
    let stopped = device.generate(request(&[1, 2], SamplingParams { stop_token_ids: vec![stop], ..params })).unwrap();
    assert_eq!(stopped.outputs[0].token_ids, whole.outputs[0].token_ids[..=first]);
    // The step that its last token was computed in for nothing has been launched by then, or is not launched any more.
    assert!(device.stats().num_steps <= first as u64 + 2, "{:?}", device.stats());
    assert_eq!((device.stats().num_used_blocks, device.stats().num_generated_tokens), (0, first as u64 + 1));
}

#[test]
fn stop_strings_end_answers_where_they_did() {
    let with_text =
        |runner| EngineHandle::with_runner(runner, model_info(Some(tokenizer())), EngineConfig::default()).unwrap();
    let lagging = with_text(Box::new(LaggingModel::new(null_config(512))));
    let plain = engine_with_text(EngineConfig::default());
    for (seed, stop) in (0..40).zip(["a", "bc", "dd", "gab"].iter().cycle()) {
        let params = SamplingParams { max_tokens: 60, stop: vec![stop.to_string()], n: 2, ..SamplingParams::default() };
        let ask = || request(&[3, 1, 2], SamplingParams { seed: Some(seed), ..params.clone() });
        assert_eq!(said(&lagging.generate(ask()).unwrap()), said(&plain.generate(ask()).unwrap()));
    }
}

/// What blocks hold is unknown then, so that nothing of it may be found in the prefix cache.
#[test]
fn a_device_that_fails_late_ends_all_requests_and_what_it_cached_is_forgotten() {
    for answer in 1..6 {
        let engine = engine_of(LaggingModel::failing_at(null_config(512), answer), EngineConfig::default());
        let params = SamplingParams { ignore_eos: true, ..SamplingParams::greedy(30) };
        let ask = || request(&[1, 2, 3, 4, 5, 6, 7, 1, 2, 3], params.clone());
        let (sender, events) = channel();
        engine
            .submit(ask(), move |event| sender.send(event).map_or(ControlFlow::Break(()), ControlFlow::Continue))
            .unwrap();
        assert!(matches!(events.iter().last(), Some(Event::Error(why)) if why.to_string().contains("on fire")));
        assert_eq!(engine.stats().num_used_blocks, 0);
        let again = engine.generate(ask()).unwrap();
        assert_eq!(again.metrics.num_cached_tokens, 0);
        assert_eq!(said(&again), alone(&[ask()])[0]);
    }
}
