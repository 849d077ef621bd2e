//! What must really happen, so that the properties are not true of nothing.

use ferrule_engine::config::Policy;
use ferrule_engine::ids::{RequestId, SequenceId, TokenId};
use ferrule_engine::null::NullConfig;
use ferrule_engine::sched::{RowsWanted, SchedulerConfig};

use crate::world::{Job, World};

fn config() -> SchedulerConfig {
    SchedulerConfig {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        policy: Policy::Continuous,
        enable_prefix_caching: true,
        max_logit_rows: 64,
    }
}

fn model(num_blocks: usize, windows: &[Option<usize>]) -> NullConfig {
    let sizes = NullConfig { vocab_size: 4, hidden_size: 4, ..NullConfig::default() };
    NullConfig { num_blocks, block_size: 4, windows: windows.to_vec(), ..sizes }
}

fn prompt(len: usize, seed: TokenId) -> Vec<TokenId> {
    (0..len as TokenId).map(|i| (i * 7 + i * i / 5 + seed) % 4).collect()
}

fn assert_expected(world: &World, id: RequestId, n: usize) {
    for index in 0..n {
        assert_eq!(world.results[&(id, index)], world.expected(id, index), "request {id}, choice {index}");
    }
}

fn scheduled(world: &World) -> Vec<u64> {
    world.step.sequences.iter().map(|scheduled| scheduled.id.0).collect()
}

/// One step of scheduling alone: the decision stays in `world.step`.
fn schedule(world: &mut World) -> Vec<u64> {
    world.scheduler.schedule(&mut world.step);
    world.scheduler.check_invariants();
    scheduled(world)
}

#[test]
fn a_repeated_prompt_is_taken_from_the_cache_but_for_its_last_token() {
    for (windows, prompt_len, hit_len) in
        [(vec![None], 33, 32), (vec![None], 32, 28), (vec![Some(6), None], 33, 32), (vec![Some(6)], 33, 32)]
    {
        let mut world = World::new(config(), model(64, &windows));
        let first = world.add(&Job::new(prompt(prompt_len, 0), 5));
        world.run(20);
        assert_eq!(world.scheduler.prefix_cache_hits(), 0);
        let second = world.add(&Job::new(prompt(prompt_len, 0), 5));
        world.run(20);
        assert_eq!(world.scheduler.prefix_cache_hits(), hit_len, "windows {windows:?}");
        assert_eq!(world.scheduler.prefix_cache_queries(), 2 * prompt_len as u64);
        assert_expected(&world, first, 1);
        assert_expected(&world, second, 1);
    }
}

#[test]
fn another_salt_a_disabled_cache_and_wanted_prompt_rows_take_no_hits() {
    let job = Job::new(prompt(33, 0), 2);
    let salted = Job { salt: Some("tenant".into()), ..job.clone() };
    let scored = Job { wants_prompt_rows: true, ..job.clone() };
    for (enable_prefix_caching, second) in [(true, &salted), (true, &scored), (false, &job)] {
        let mut world = World::new(SchedulerConfig { enable_prefix_caching, ..config() }, model(64, &[None]));
        world.add(&job);
        world.run(20);
        let id = world.add(second);
        world.run(20);
        assert_eq!(world.scheduler.prefix_cache_hits(), 0);
        assert_expected(&world, id, 1);
    }
}

#[test]
fn a_pool_for_one_serves_three_by_preemption() {
    for windows in [vec![None], vec![None, Some(6)]] {
        let mut world = World::new(config(), model(16, &windows));
        let ids: Vec<RequestId> = (0..3).map(|seed| world.add(&Job::new(prompt(6, seed), 20))).collect();
        world.run(200);
        assert!(world.scheduler.num_preemptions() > 0, "the pool is too large for this test");
        ids.iter().for_each(|&id| assert_expected(&world, id, 1));
        assert_eq!(world.scheduler.num_used_blocks(), 0);
    }
}

#[test]
fn a_preempted_sequence_gets_its_blocks_back_from_the_cache() {
    let mut world = World::new(SchedulerConfig { max_num_batched_tokens: 4, ..config() }, model(10, &[None]));
    let first = world.add(&Job::new(prompt(8, 0), 17));
    let second = world.add(&Job::new(prompt(8, 1), 17));
    let mut resumed_at = 0;
    while world.scheduler.has_work() {
        world.step();
        let resumed = world.scheduler.get(SequenceId(1)).filter(|sequence| sequence.num_preemptions() == 1);
        resumed_at = resumed_at.max(resumed.map_or(0, |sequence| sequence.num_computed_tokens()));
        if resumed_at > 0 {
            break;
        }
    }
    assert!(resumed_at > 4, "it began anew, with {resumed_at} tokens after its first step");
    assert_eq!(world.scheduler.get(SequenceId(1)).unwrap().num_cached_tokens(), 0, "its own blocks are no discount");
    assert_eq!((world.scheduler.prefix_cache_queries(), world.scheduler.prefix_cache_hits()), (16, 0));
    world.run(100);
    assert_expected(&world, first, 1);
    assert_expected(&world, second, 1);
}

#[test]
fn the_victim_is_the_last_in_rank_and_returns_first() {
    let mut world = World::new(config(), model(8, &[None]));
    for (seed, priority) in [(0, 0), (1, 1), (2, 0)] {
        world.add(&Job { priority, ..Job::new(prompt(5, seed), 20) });
    }
    let mut victims = Vec::new();
    while world.scheduler.has_work() {
        world.step();
        victims.extend(world.step.preempted.iter().map(|id| id.0));
    }
    assert_eq!(victims.first(), Some(&2));
    assert!(!victims.contains(&1), "the highest priority is never a victim: {victims:?}");
}

#[test]
fn choices_share_the_prompt_and_copy_only_the_block_they_write() {
    let mut world = World::new(config(), model(32, &[None]));
    let id = world.add(&Job { n: 3, ..Job::new(prompt(14, 0), 6) });
    world.step();
    assert_eq!((world.scheduler.num_running(), world.scheduler.num_used_blocks()), (3, 4));
    world.step();
    assert_eq!(world.num_copies, 2, "the last of three writes in place");
    assert_eq!(world.scheduler.num_used_blocks(), 3 + 3);
    world.run(20);
    assert_expected(&world, id, 3);
}

#[test]
fn choices_reserve_their_slots_before_they_are_forked() {
    let mut world = World::new(SchedulerConfig { max_num_seqs: 4, ..config() }, model(64, &[None]));
    world.add(&Job { n: 3, ..Job::new(prompt(5, 0), 4) });
    world.add(&Job { n: 2, ..Job::new(prompt(5, 1), 4) });
    world.add(&Job::new(prompt(5, 2), 4));
    assert_eq!(schedule(&mut world), [0], "two more slots are not free, and nobody overtakes");
}

#[test]
fn higher_priority_is_admitted_first_and_then_the_earlier_arrival() {
    let mut world = World::new(SchedulerConfig { max_num_seqs: 3, ..config() }, model(64, &[None]));
    for (seed, priority) in [(0, 0), (1, -1), (2, 7), (3, 0)] {
        world.add(&Job { priority, ..Job::new(prompt(5, seed), 4) });
    }
    assert_eq!(schedule(&mut world), [2, 0, 3]);
}

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_running_sequences() {
    let mut world = World::new(SchedulerConfig { max_num_batched_tokens: 8, ..config() }, model(64, &[None]));
    world.add(&Job::new(prompt(6, 0), 10));
    world.step();
    let long = world.add(&Job::new(prompt(20, 1), 2));
    for (num_tokens, rows) in [(7, RowsWanted::None), (7, RowsWanted::None), (6, RowsWanted::Last)] {
        assert_eq!(schedule(&mut world), [0, 1]);
        let chunk = &world.step.sequences[1];
        assert_eq!((chunk.num_tokens(), chunk.rows), (num_tokens, rows));
        world.scheduler.commit(&world.step);
        world.scheduler.append(SequenceId(0), 0);
    }
    assert_eq!(world.scheduler.get(SequenceId(1)).unwrap().request_id(), long);
}

#[test]
fn a_short_prompt_is_answered_beside_a_long_one() {
    let mut world = World::new(SchedulerConfig { max_num_batched_tokens: 8, ..config() }, model(64, &[None]));
    let long = world.add(&Job::new(prompt(60, 1), 2));
    world.step();
    let short = world.add(&Job::new(prompt(3, 2), 9));
    world.step();
    assert_eq!(world.step.sequences.iter().map(|scheduled| scheduled.num_tokens()).collect::<Vec<_>>(), [5, 3]);
    assert_eq!(world.scheduler.get(SequenceId(1)).unwrap().output().len(), 1, "its first token");
    world.step();
    assert_eq!(world.step.sequences.iter().map(|scheduled| scheduled.num_tokens()).collect::<Vec<_>>(), [7, 1]);
    world.run(20);
    assert_expected(&world, long, 1);
    assert_expected(&world, short, 1);
}

#[test]
fn short_prompts_without_end_leave_a_long_one_half_of_each_step() {
    let mut world = World::new(SchedulerConfig { max_num_batched_tokens: 8, ..config() }, model(64, &[None]));
    let long = world.add(&Job::new(prompt(60, 1), 1));
    let mut num_steps = 0;
    while world.scheduler.get(SequenceId(0)).is_some() {
        (0..4).for_each(|seed| _ = world.add(&Job::new(prompt(2, seed), 1)));
        world.step();
        num_steps += 1;
    }
    assert!((60 / 8 + 1..=60 / 4).contains(&num_steps), "{num_steps} steps for 60 tokens");
    assert_expected(&world, long, 1);
}

#[test]
fn who_is_overtaken_keeps_its_slot_and_its_blocks() {
    // The first needs 10 of the blocks and the second 7: the third has room if there are 3 more (2, and 1 to grow).
    for (max_num_seqs, num_blocks, scheduled) in [(3, 24, vec![0, 2]), (2, 24, vec![0]), (3, 18, vec![0])] {
        let limits = SchedulerConfig { max_num_seqs, max_num_batched_tokens: 16, ..config() };
        let mut world = World::new(limits, model(num_blocks, &[None]));
        for (len, seed) in [(40, 0), (26, 1), (5, 2)] {
            world.add(&Job::new(prompt(len, seed), 2));
        }
        assert_eq!(schedule(&mut world), scheduled, "{max_num_seqs} slots, {num_blocks} blocks");
    }
}

#[test]
fn who_will_find_its_prefix_in_the_cache_does_not_compute_it_beside() {
    let limits = SchedulerConfig { max_num_batched_tokens: 16, ..config() };
    for (other, hit_len) in [(0, 8), (1, 0)] {
        let mut world = World::new(limits.clone(), model(64, &[None]));
        world.add(&Job::new(prompt(60, 0), 1));
        world.add(&Job::new([&prompt(8, other)[..], &[0; 3]].concat(), 1));
        world.run(20);
        assert_eq!(world.scheduler.prefix_cache_hits(), hit_len);
    }
}

#[test]
fn a_newcomer_waits_for_blocks_that_are_spoken_for() {
    for (policy, max_num_batched_tokens) in [(Policy::Continuous, 64), (Policy::Static, 8)] {
        let limits = SchedulerConfig { policy, max_num_batched_tokens, ..config() };
        // Of 10 blocks the first needs 6 for its prompt, computed or not, and 1 more for its growth.
        for (prompt_len, num_running) in [(12, 2), (13, 1)] {
            let mut world = World::new(limits.clone(), model(10, &[None]));
            world.add(&Job::new(prompt(24, 0), 4));
            world.add(&Job::new(prompt(prompt_len, 1), 4));
            world.step();
            assert_eq!(world.scheduler.num_running(), num_running, "{policy:?}");
        }
    }
}

#[test]
fn an_old_prefix_is_evicted_from_its_end() {
    let mut world = World::new(config(), model(16, &[None]));
    let old = Job::new(prompt(41, 0), 1);
    world.add(&old);
    world.run(5);
    // 10 blocks are cached and 6 are not: 9 take 3 of the old prefix.
    world.add(&Job::new(prompt(35, 1), 1));
    world.run(5);
    world.add(&old);
    world.run(5);
    assert_eq!(world.scheduler.prefix_cache_hits(), 7 * 4);
}

#[test]
fn reused_blocks_are_handed_out_in_ascending_runs() {
    let mut world = World::new(config(), model(16, &[None]));
    for seed in 0..3 {
        world.add(&Job::new(prompt(60, seed), 1));
        world.step();
        let ids = &world.step.block_ids;
        assert!(ids.is_sorted(), "the cache is reused from its end, but read from its start: {ids:?}");
    }
}

#[test]
fn a_static_batch_runs_to_its_end_before_the_next_is_admitted() {
    let static_config = SchedulerConfig { max_num_seqs: 2, policy: Policy::Static, ..config() };
    let mut world = World::new(SchedulerConfig { max_num_batched_tokens: 8, ..static_config }, model(64, &[None]));
    for (seed, max_tokens) in [(0, 3), (1, 9), (2, 3)] {
        world.add(&Job::new(prompt(8, seed), max_tokens));
    }
    world.step();
    assert_eq!(scheduled(&world), [0], "the budget of one step");
    assert_eq!(world.scheduler.num_running(), 2, "the batch is complete all the same");
    while world.scheduler.get(SequenceId(1)).is_some() {
        assert_eq!(world.scheduler.get(SequenceId(2)).unwrap().num_computed_tokens(), 0);
        world.step();
    }
    assert_eq!(schedule(&mut world), [2]);
}

#[test]
fn a_sliding_group_holds_its_window_and_no_more() {
    let mut world = World::new(config(), model(64, &[Some(6)]));
    let id = world.add(&Job::new(prompt(40, 0), 40));
    let mut most_used = 0;
    world.step();
    while world.scheduler.has_work() {
        world.step();
        most_used = most_used.max(world.step.block_ids.len());
    }
    // Six positions touch at most three blocks of four.
    assert_eq!(most_used, 3);
    assert_expected(&world, id, 1);
}

#[test]
fn prompt_rows_come_once_each_within_the_limit_of_rows() {
    let limits = SchedulerConfig { max_logit_rows: 5, ..config() };
    let mut world = World::new(limits, model(64, &[None]));
    let id = world.add(&Job { wants_prompt_rows: true, ..Job::new(prompt(17, 0), 3) });
    world.run(20);
    assert_eq!(world.results[&(id, 0)].prompt_rows.len(), 17);
    assert_expected(&world, id, 1);
}

#[test]
#[should_panic(expected = "earlier tokens are not computed yet")]
fn a_token_before_its_time_is_caught() {
    let mut world = World::new(config(), model(64, &[None]));
    world.add(&Job::new(prompt(5, 0), 2));
    world.scheduler.append(SequenceId(0), 0);
}
