//! Time to choose one token, by vocabulary and parameters.
//!
//! `cargo bench --bench sampler`

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ferrule_engine::SamplingParams;
use ferrule_engine::sample::{SampleContext, SampleScratch, sample};

/// Logits as models have them: a few tokens stand out from a wide bell of unlikely ones.
fn logits(vocab_size: usize) -> Vec<f32> {
    let noise = |i: usize| ((i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1 << 24) as f32;
    let bell = |i: usize| (0..6).map(|j| noise(6 * i + j)).sum::<f32>() * 3.0 - 9.0;
    (0..vocab_size).map(|i| if i % 997 == 5 { bell(i) + 14.0 } else { bell(i) }).collect()
}

fn samplers(criterion: &mut Criterion) {
    let on = SamplingParams::default;
    let cases = [
        ("greedy", SamplingParams::greedy(1)),
        ("temperature", on()),
        ("top_p", SamplingParams { top_p: 0.95, ..on() }),
        ("top_k", SamplingParams { top_k: 40, top_p: 0.95, ..on() }),
        ("min_p", SamplingParams { min_p: 0.05, ..on() }),
        ("typical", SamplingParams { typical_p: 0.95, ..on() }),
        ("greedy+logprobs", SamplingParams { logprobs: Some(5), ..SamplingParams::greedy(1) }),
    ];
    let mut group = criterion.benchmark_group("sample");
    group.sample_size(10).warm_up_time(Duration::from_millis(100)).measurement_time(Duration::from_millis(300));
    for vocab_size in [49_152, 262_144] {
        let mut logits = logits(vocab_size);
        for (name, params) in &cases {
            let mut scratch = SampleScratch::default();
            let mut seed = 0;
            group.bench_function(BenchmarkId::new(*name, vocab_size), |bencher| {
                bencher.iter(|| {
                    seed += 1;
                    let context = SampleContext { params, seed, prompt: &[1], output: &[], eos: &[] };
                    black_box(sample(&mut logits, context, &mut scratch))
                })
            });
        }
    }
}

criterion_group!(benches, samplers);
criterion_main!(benches);
