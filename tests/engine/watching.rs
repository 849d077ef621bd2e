//! What a watcher sees between two steps.

use std::sync::mpsc::{Sender, channel};

use ferrule_engine::kv::BlockState;
use ferrule_engine::snapshot::Snapshot;
use ferrule_engine::{EngineConfig, EngineHandle, SamplingParams};

use crate::world::*;

/// After the step in progress, which is let go.
fn snapshot(engine: &EngineHandle, gate: &Sender<Gate>) -> Snapshot {
    let (sender, snapshots) = channel();
    engine.watch(move |snapshot| sender.send(snapshot).unwrap());
    gate.send(Gate::Run).unwrap();
    snapshots.recv().unwrap()
}

fn count(snapshot: &Snapshot, states: &[BlockState]) -> usize {
    snapshot.blocks.iter().filter(|(_, state)| states.contains(state)).map(|(count, _)| count).sum()
}

#[test]
fn blocks_and_requests_are_seen_as_they_are() {
    let config = EngineConfig { max_num_seqs: 2, max_num_batched_tokens: 6, ..EngineConfig::default() };
    let (engine, gate) = gated_engine(config);
    let params = SamplingParams { n: 2, max_tokens: 30, ignore_eos: true, ..SamplingParams::default() };
    let running = engine.submit(request(&[1; 13], params.clone()), |_| std::ops::ControlFlow::Continue(())).unwrap();
    let waiting = engine.stream(request(&[2, 3], params)).unwrap();
    gate.send(Gate::Run).unwrap();
    wait_until(&engine, |stats| stats.num_steps == 1);
    let computed: Vec<_> = (0..5)
        .map(|_| {
            let snapshot = snapshot(&engine, &gate);
            let [first, second] = &snapshot.requests[..] else { panic!("two requests: {snapshot:?}") };
            assert_eq!(first.id, running);
            assert!(first.queue_time.is_some() && second.queue_time.is_none());
            let held: usize = first.blocks.iter().map(ExactSizeIterator::len).sum();
            assert_eq!(held, count(&snapshot, &[BlockState::Used, BlockState::Shared]));
            assert_eq!((second.blocks.len(), second.num_computed_tokens), (0, 0));
            assert_eq!(count(&snapshot, &[BlockState::Free, BlockState::Cached]) + held, 512);
            first.num_computed_tokens
        })
        .collect();
    // Six tokens of the prompt a step, then one of each choice; the first look may come before the second step.
    assert!([6, 12, 13, 14, 15, 16].windows(5).any(|steps| steps == computed), "{computed:?}");
    engine.cancel(running);
    drop(waiting);
    drop(gate);
    wait_until(&engine, |stats| stats.num_cancelled == 2);
    let (sender, snapshots) = channel();
    engine.watch(move |snapshot| sender.send(snapshot).unwrap());
    let idle = snapshots.recv().unwrap();
    assert!(idle.requests.is_empty());
    assert_eq!(count(&idle, &[BlockState::Used, BlockState::Shared]), 0);
    assert!(count(&idle, &[BlockState::Cached]) > 0, "the prompt's full blocks stay known");
}

#[test]
fn a_watcher_of_an_engine_that_has_ended_is_dropped() {
    let engine = engine(EngineConfig::default());
    engine.shutdown();
    let (sender, snapshots) = channel::<Snapshot>();
    engine.watch(move |snapshot| sender.send(snapshot).unwrap());
    assert!(snapshots.recv().is_err());
}
