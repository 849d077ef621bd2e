//! `schedule` + `commit` + one `append` per sequence, in the steady state of decoding: no model, no sampling.
//! Target: at most 50 µs at 256 sequences, and linear from there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ferrule_engine::config::Policy;
use ferrule_engine::ids::{RequestId, SequenceId};
use ferrule_engine::kv::KvGeometry;
use ferrule_engine::request::{Request, Task};
use ferrule_engine::sched::{Scheduler, SchedulerConfig, SchedulerOutput};
use ferrule_engine::sequence::Sequence;
use ferrule_engine::{SamplingParams, TokenId};

const PROMPT_LEN: usize = 256;
/// Steps before the world is built anew: contexts stay between 256 and 512 tokens.
const MAX_STEPS: u64 = 256;
const BLOCK_SIZE: usize = 16;

struct World {
    scheduler: Scheduler,
    step: SchedulerOutput,
}

impl World {
    /// `num_sequences` whose prompts are computed, each different from its first token on.
    fn decoding(num_sequences: usize, windows: &[Option<usize>]) -> Self {
        let max_len = PROMPT_LEN + MAX_STEPS as usize + 2;
        let num_blocks = num_sequences * windows.len() * (max_len.div_ceil(BLOCK_SIZE) + 1);
        let config = SchedulerConfig {
            max_num_seqs: num_sequences,
            max_num_batched_tokens: num_sequences * PROMPT_LEN,
            policy: Policy::Continuous,
            enable_prefix_caching: true,
            max_logit_rows: num_sequences,
        };
        let mut scheduler = Scheduler::new(config, KvGeometry::new(num_blocks, BLOCK_SIZE, windows));
        for id in 0..num_sequences as u64 {
            scheduler.add(Sequence::new(SequenceId(id), &request(id, max_len)));
        }
        let mut world = Self { scheduler, step: SchedulerOutput::default() };
        world.step();
        assert_eq!(world.scheduler.num_running(), num_sequences);
        world
    }

    fn step(&mut self) {
        self.scheduler.schedule(&mut self.step);
        self.scheduler.commit(&self.step);
        for scheduled in &self.step.sequences {
            self.scheduler.append(scheduled.id, scheduled.start as TokenId);
        }
    }
}

fn request(id: u64, max_len: usize) -> Request {
    let prompt = (0..PROMPT_LEN as TokenId).map(|position| id as TokenId * 7919 + position).collect();
    Request {
        id: RequestId(id),
        prompt,
        params: Arc::new(SamplingParams::greedy(max_len - PROMPT_LEN)),
        task: Task::Generate,
        priority: 0,
        cache_salt: None,
        seed: 0,
        max_len,
    }
}

fn time_steps(num_sequences: usize, windows: &[Option<usize>], num_steps: u64) -> Duration {
    let mut total = Duration::ZERO;
    let mut num_left = num_steps;
    while num_left > 0 {
        let num_now = num_left.min(MAX_STEPS);
        let mut world = World::decoding(num_sequences, windows);
        let began = Instant::now();
        (0..num_now).for_each(|_| world.step());
        total += began.elapsed();
        assert_eq!(world.step.sequences.len(), num_sequences, "every step runs everybody");
        num_left -= num_now;
    }
    total
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode_step");
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    for (name, windows) in [("full", vec![None]), ("full+sliding", vec![None, Some(128)])] {
        for num_sequences in [1, 64, 256, 1024, 4096] {
            group.throughput(Throughput::Elements(num_sequences as u64));
            group.bench_with_input(BenchmarkId::new(name, num_sequences), &num_sequences, |bencher, &num_sequences| {
                bencher.iter_custom(|num_steps| time_steps(num_sequences, &windows, num_steps));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
