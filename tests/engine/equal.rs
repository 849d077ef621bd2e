//! A request's answer is a function of the request alone.

use ferrule_engine::config::Policy;
use ferrule_engine::null::{NullConfig, NullModel};
use ferrule_engine::request::Task;
use ferrule_engine::sample::choice_seed;
use ferrule_engine::{EngineConfig, GenerateRequest, SamplingParams};
use proptest::prelude::*;

use crate::world::*;

fn params() -> impl Strategy<Value = SamplingParams> {
    let lengths = (1usize..4, 0usize..20, prop::option::of(0usize..4), prop::option::of(0usize..3));
    let sampling = (any::<bool>(), any::<u64>(), prop_oneof![Just(1.0f32), 0.3f32..1.0], 0u32..8);
    (lengths, sampling).prop_map(|((n, max_tokens, logprobs, prompt_logprobs), (greedy, seed, top_p, stop))| {
        SamplingParams {
            n,
            max_tokens,
            logprobs,
            prompt_logprobs,
            temperature: if greedy { 0.0 } else { 1.0 },
            seed: Some(seed),
            top_p,
            frequency_penalty: 0.5,
            stop_token_ids: vec![stop],
            ..SamplingParams::default()
        }
    })
}

/// Prompts share beginnings, so that the prefix cache has something to find.
pub fn requests() -> impl Strategy<Value = Vec<GenerateRequest>> {
    let one = (0u32..2, 1usize..40, params(), 0i32..3, prop::option::of("[xy]"), prop::bool::weighted(0.1)).prop_map(
        |(kind, len, params, priority, cache_salt, embed)| {
            let prompt: Vec<u32> = (0..len as u32).map(|i| (i * i + kind * (i / 9)) % VOCAB_SIZE as u32).collect();
            let task = if embed { Task::Embed } else { Task::Generate };
            GenerateRequest { task, priority, cache_salt, ..request(&prompt, params) }
        },
    );
    prop::collection::vec(one, 1..9)
}

pub fn configs() -> impl Strategy<Value = EngineConfig> {
    (3usize..12, 1usize..80, any::<bool>(), any::<bool>()).prop_map(|(seqs, budget, caching, continuous)| {
        EngineConfig {
            max_num_seqs: seqs,
            max_num_batched_tokens: budget,
            enable_prefix_caching: caching,
            policy: if continuous { Policy::Continuous } else { Policy::Static },
            ..EngineConfig::default()
        }
    })
}

pub fn alone(requests: &[GenerateRequest]) -> Vec<String> {
    let config = EngineConfig { enable_prefix_caching: false, ..EngineConfig::default() };
    let engine = engine(config);
    requests.iter().map(|request| said(&engine.generate(request.clone()).unwrap())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Batched, chunked, cached, preempted and static answers equal those given one at a time.
    #[test]
    fn company_changes_nothing(
        requests in requests(),
        config in configs(),
        spare_blocks in 0usize..40,
        num_host_blocks in prop_oneof![Just(0usize), 1usize..40],
    ) {
        let expected = alone(&requests);
        // 60 tokens in blocks of 4, in two groups: the longest request fits alone, and little beside it.
        let null = NullConfig { num_host_blocks, ..null_config(36 + spare_blocks) };
        let engine = engine_of(NullModel::new(null), config);
        for _ in 0..2 {
            let outputs = engine.generate_all(requests.clone()).unwrap();
            prop_assert_eq!(outputs.iter().map(said).collect::<Vec<_>>(), expected.clone());
            prop_assert_eq!(engine.stats().num_used_blocks, 0);
        }
    }

    /// Choice `i` of a request is the answer to a request of its own with that choice's seed.
    #[test]
    fn choices_are_requests_with_seeds_of_their_own(params in params(), len in 1usize..30) {
        let prompt: Vec<u32> = (0..len as u32).map(|i| i * 5 % VOCAB_SIZE as u32).collect();
        let engine = engine(EngineConfig::default());
        let together = engine.generate(request(&prompt, params.clone())).unwrap();
        prop_assert_eq!(together.outputs.len(), params.n);
        for (i, choice) in together.outputs.iter().enumerate() {
            let seed = Some(choice_seed(params.seed.unwrap(), i));
            let mut single = engine.generate(request(&prompt, SamplingParams { n: 1, seed, ..params.clone() })).unwrap();
            single.outputs[0].index = i;
            prop_assert_eq!(&single.outputs[0], choice);
        }
    }
}

#[test]
fn the_worlds_above_do_preempt_and_do_hit_the_cache() {
    let config = EngineConfig { max_num_seqs: 8, max_num_batched_tokens: 64, ..EngineConfig::default() };
    let engine = engine_of(NullModel::new(null_config(40)), config);
    let params = SamplingParams::greedy(19);
    let requests: Vec<_> =
        (0..8).map(|i| request(&[[1, 2, 3, 4].repeat(5), vec![i]].concat(), params.clone())).collect();
    let outputs = engine.generate_all(requests.clone()).unwrap();
    assert!(engine.stats().num_preemptions > 0);
    assert_eq!(outputs.iter().map(said).collect::<Vec<_>>(), alone(&requests));
    let preempted: usize = outputs.iter().map(|output| output.metrics.num_preemptions).sum();
    assert_eq!(preempted as u64, engine.stats().num_preemptions);
    engine.generate(requests[0].clone()).unwrap();
    let again = engine.generate(requests[0].clone()).unwrap();
    assert!(again.metrics.num_cached_tokens > 0 && engine.stats().prefix_cache_hits > 0);
}

/// Those that fit into host memory come back as they were, and are not computed again.
#[test]
fn preempted_sequences_come_back_from_host_memory() {
    // The choices of one request run together for certain, and hold three times as many blocks as there are.
    let params = SamplingParams { n: 8, max_tokens: 40, seed: Some(3), ..SamplingParams::default() };
    let request = request(&[1, 2, 3, 4, 5, 6, 7, 1, 2], params);
    let run = |num_host_blocks| {
        let null = NullConfig { num_host_blocks, ..null_config(40) };
        let engine = engine_of(NullModel::new(null), EngineConfig::default());
        let output = engine.generate(request.clone()).unwrap();
        assert_eq!(said(&output), alone(std::slice::from_ref(&request))[0]);
        engine.stats()
    };
    let (lost, some, all) = (run(0), run(12), run(100));
    assert!(lost.num_preemptions > 0 && lost.num_swapped_blocks == 0);
    assert!(some.num_swapped_blocks > 0 && all.num_swapped_blocks > some.num_swapped_blocks, "{some:?} {all:?}");
}

#[test]
fn many_threads_get_the_answers_that_one_gets() {
    let requests: Vec<_> = (0..64u64)
        .map(|i| request(&[i as u32 % 8, 3], SamplingParams { max_tokens: 12, seed: Some(i), ..Default::default() }))
        .collect();
    let expected = alone(&requests);
    let engine = engine(EngineConfig::default());
    std::thread::scope(|scope| {
        for chunk in 0..8 {
            let (engine, requests, expected) = (&engine, &requests, &expected);
            scope.spawn(move || {
                for i in chunk * 8..(chunk + 1) * 8 {
                    assert_eq!(said(&engine.generate(requests[i].clone()).unwrap()), expected[i]);
                }
            });
        }
    });
    assert_eq!(engine.stats().num_finished, 64);
}

#[test]
fn a_request_without_a_seed_reports_one_that_repeats_its_answer() {
    let engine = engine(EngineConfig::default());
    let params = SamplingParams { max_tokens: 30, ..SamplingParams::default() };
    let first = engine.generate(request(&[1, 2], params.clone())).unwrap();
    let other = engine.generate(request(&[1, 2], params.clone())).unwrap();
    let seed = Some(first.metrics.seed);
    let again = engine.generate(request(&[1, 2], SamplingParams { seed, ..params })).unwrap();
    assert_eq!(first.outputs, again.outputs);
    assert_ne!(first.metrics.seed, other.metrics.seed);
    assert_ne!(first.outputs, other.outputs);
}
