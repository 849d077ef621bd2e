//! Random worlds of small pools and small vocabularies, checked after every step.

use ferrule_engine::config::Policy;
use ferrule_engine::kv::KvGeometry;
use ferrule_engine::null::NullConfig;
use ferrule_engine::request::Task;
use ferrule_engine::sched::{Scheduler, SchedulerConfig};
use proptest::prelude::*;

use crate::world::{Job, World};

const MAX_PROMPT: usize = 40;
const MAX_TOKENS: usize = 12;

#[derive(Debug, Clone)]
struct Plan {
    scheduler: SchedulerConfig,
    model: NullConfig,
    jobs: Vec<Arrival>,
}

#[derive(Debug, Clone)]
struct Arrival {
    job: Job,
    /// Steps after the arrival before.
    delay: usize,
    /// Steps after its own arrival.
    cancelled_after: Option<usize>,
}

fn windows() -> impl Strategy<Value = Vec<Option<usize>>> {
    prop_oneof![
        Just(vec![None]),
        (1usize..12).prop_map(|window| vec![Some(window)]),
        (1usize..12).prop_map(|window| vec![Some(window), None]),
        (1usize..12).prop_map(|window| vec![None, Some(window), Some(window)]),
        (1usize..6, 6usize..20).prop_map(|(short, long)| vec![Some(short), None, Some(long)]),
    ]
}

/// Prompts that repeat: two patterns, cut anywhere, and a tail.
fn prompt(vocab_size: u32) -> impl Strategy<Value = Vec<u32>> {
    let pattern = move |kind: u32| move |i: u32| (i * i * (kind + 1) + i / 3) % vocab_size;
    (0u32..2, 0..MAX_PROMPT as u32 - 4, prop::collection::vec(0..vocab_size, 1..4))
        .prop_map(move |(kind, len, tail)| (0..len).map(pattern(kind)).chain(tail).collect())
}

fn arrival(vocab_size: u32, max_num_seqs: usize) -> impl Strategy<Value = Arrival> {
    let job = (
        prompt(vocab_size),
        0..=MAX_TOKENS,
        1..=max_num_seqs.min(3),
        prop::bool::weighted(0.1),
        -1i32..2,
        prop::option::weighted(0.2, Just("tenant".to_string())),
        prop::bool::weighted(0.25),
    );
    let job = job.prop_map(|(prompt, max_tokens, n, embeds, priority, salt, wants_prompt_rows)| Job {
        prompt,
        max_tokens,
        n: if max_tokens == 0 || embeds { 1 } else { n },
        task: if embeds { Task::Embed } else { Task::Generate },
        priority,
        salt,
        wants_prompt_rows,
    });
    (job, 0usize..6, prop::option::weighted(0.2, 0usize..20)).prop_map(|(job, delay, cancelled_after)| Arrival {
        job,
        delay,
        cancelled_after,
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let scheduler = (1usize..7, 1usize..24, any::<bool>(), any::<bool>(), 1usize..12).prop_map(
        |(max_num_seqs, max_num_batched_tokens, is_static, enable_prefix_caching, max_logit_rows)| SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens,
            policy: if is_static { Policy::Static } else { Policy::Continuous },
            enable_prefix_caching,
            max_logit_rows,
        },
    );
    let model = (
        2usize..5,
        prop::sample::select(vec![1, 2, 3, 4, 16]),
        windows(),
        0usize..24,
        prop_oneof![Just(0usize), 1usize..24],
    );
    (scheduler, model).prop_flat_map(|(scheduler, (vocab_size, block_size, windows, num_spare, num_host_blocks))| {
        let jobs = prop::collection::vec(arrival(vocab_size as u32, scheduler.max_num_seqs), 1..9);
        jobs.prop_map(move |jobs| {
            let longest = jobs.iter().map(|arrival| arrival.job.len()).max().unwrap();
            let num_blocks = smallest_pool(longest, block_size, &windows) + num_spare;
            let model = NullConfig {
                vocab_size,
                hidden_size: 4,
                num_blocks,
                num_host_blocks,
                block_size,
                windows: windows.clone(),
                cost: None,
            };
            Plan { scheduler: scheduler.clone(), model, jobs }
        })
    })
}

/// The tightest pool in which a sequence of `len` tokens fits alone.
fn smallest_pool(len: usize, block_size: usize, windows: &[Option<usize>]) -> usize {
    let config = SchedulerConfig {
        max_num_seqs: 1,
        max_num_batched_tokens: 1,
        policy: Policy::Continuous,
        enable_prefix_caching: false,
        max_logit_rows: 1,
    };
    let fits = |num_blocks: usize| {
        let geometry = KvGeometry::new(num_blocks, block_size, windows);
        Scheduler::new(config.clone(), geometry).max_tokens_alone() >= len
    };
    (1..).find(|&num_blocks| fits(num_blocks)).unwrap()
}

/// Runs a plan and returns the world at its end, when nothing is left.
fn run(plan: &Plan) -> World {
    let mut world = World::new(plan.scheduler.clone(), plan.model.clone());
    let mut cancellations = Vec::new();
    let mut now = 0;
    let mut advance = |world: &mut World, cancellations: &[(usize, _)], num_steps: usize| {
        for _ in 0..num_steps {
            world.step();
            now += 1;
            cancellations.iter().filter(|&&(at, _)| at == now).for_each(|&(_, id)| world.cancel(id));
        }
        now
    };
    for arrival in &plan.jobs {
        let now = advance(&mut world, &cancellations, arrival.delay);
        let id = world.add(&arrival.job);
        cancellations.extend(arrival.cancelled_after.map(|after| (now + after, id)));
    }
    advance(&mut world, &cancellations, 20);
    // Each step, the first in rank computes a token that only a newcomer of higher rank can take from it.
    let num_tokens: usize = plan.jobs.iter().map(|arrival| arrival.job.len() * arrival.job.n).sum();
    let num_sequences: usize = plan.jobs.iter().map(|arrival| arrival.job.n).sum();
    world.run(num_tokens * num_sequences);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// Batched, chunked, cached, preempted, forked, cancelled beside: equal to alone, and nothing leaks.
    #[test]
    fn answers_do_not_depend_on_company(plan in plan()) {
        let world = run(&plan);
        prop_assert_eq!(world.scheduler.num_used_blocks(), 0);
        prop_assert_eq!((world.scheduler.num_running(), world.scheduler.num_waiting()), (0, 0));
        for (index, arrival) in plan.jobs.iter().enumerate() {
            let id = ferrule_engine::RequestId(index as u64);
            for choice in 0..arrival.job.n {
                match world.results.get(&(id, choice)) {
                    Some(result) => prop_assert_eq!(result, &world.expected(id, choice)),
                    None => prop_assert!(arrival.cancelled_after.is_some(), "request {index} has no answer"),
                }
            }
        }
    }

    /// The same plan gives the same steps.
    #[test]
    fn scheduling_is_a_function_of_its_inputs(plan in plan()) {
        let (one, other) = (run(&plan), run(&plan));
        prop_assert_eq!(one.results, other.results);
        prop_assert_eq!(one.scheduler.num_preemptions(), other.scheduler.num_preemptions());
        prop_assert_eq!(one.scheduler.prefix_cache_hits(), other.scheduler.prefix_cache_hits());
    }

    /// The longest sequence that is promised to fit alone does, in any chunks.
    #[test]
    fn the_longest_sequence_fits_alone(
        num_blocks in 1usize..16,
        block_size in 1usize..5,
        windows in windows(),
        budget in 1usize..40,
    ) {
        let scheduler = SchedulerConfig {
            max_num_seqs: 2,
            max_num_batched_tokens: budget,
            policy: Policy::Continuous,
            enable_prefix_caching: true,
            max_logit_rows: 1,
        };
        let sizes = NullConfig { vocab_size: 3, hidden_size: 1, ..NullConfig::default() };
        let model = NullConfig { num_blocks, block_size, windows, ..sizes };
        let mut world = World::new(scheduler, model);
        let longest = world.scheduler.max_tokens_alone().min(100);
        prop_assume!(longest >= 2);
        let job = Job::new(vec![1; longest / 2], longest - longest / 2);
        let id = world.add(&job);
        world.run(longest);
        prop_assert_eq!(&world.results[&(id, 0)], &world.expected(id, 0));
    }
}
