//! Requests that do not run to their end leave nothing behind, and nobody waits for them in vain.

use std::ops::ControlFlow;
use std::sync::mpsc::channel;
use std::time::Duration;

use ferrule_engine::{EngineConfig, Error, Event, EventStream, SamplingParams};

use crate::world::*;

fn long() -> SamplingParams {
    SamplingParams { max_tokens: 60, seed: Some(1), ..SamplingParams::default() }
}

#[test]
fn cancelling_at_any_step_leaks_nothing_and_disturbs_nobody() {
    let ask = |n| request(&[1, 2, 3, 4, 5, 6, 7], SamplingParams { n, max_tokens: 9, ..long() });
    let expected = said(&engine(EngineConfig::default()).generate(ask(1)).unwrap());
    // Seven tokens at five a step, then eight more: the tenth step ends it, and begins before the cancellation.
    for steps in 0..9 {
        let config = EngineConfig { max_num_batched_tokens: 5, ..EngineConfig::default() };
        let (engine, gate) = gated_engine(config);
        let (sender, events) = channel();
        let id = engine
            .submit(ask(3), move |event| sender.send(event).map_or(ControlFlow::Break(()), ControlFlow::Continue));
        let company = engine.stream(ask(1)).unwrap();
        for _ in 0..steps {
            gate.send(Gate::Run).unwrap();
        }
        wait_until(&engine, |stats| stats.num_steps == steps);
        engine.cancel(id.unwrap());
        drop(gate);
        assert_eq!(said(&company.collect_output().unwrap()), expected, "cancelled at step {steps}");
        assert!(matches!(events.iter().last(), Some(Event::Error(Error::Cancelled(_)))));
        let stats = engine.stats();
        assert_eq!((stats.num_used_blocks, stats.num_running, stats.num_cancelled), (0, 0, 1));
    }
}

#[test]
fn dropping_a_stream_cancels_its_request_running_or_waiting() {
    let (engine, gate) = gated_engine(EngineConfig { max_num_seqs: 1, ..EngineConfig::default() });
    let mut running = engine.stream(request(&[1, 2], long())).unwrap();
    gate.send(Gate::Run).unwrap();
    assert!(matches!(running.next(), Some(Event::Delta(_))));
    let waiting = engine.stream(request(&[3, 4], long())).unwrap();
    assert!(running.next_timeout(Duration::from_millis(1)).is_err());
    drop((running, waiting));
    drop(gate);
    wait_until(&engine, |stats| stats.num_cancelled == 2);
    assert_eq!((engine.stats().num_used_blocks, engine.stats().num_waiting), (0, 0));
    assert!(engine.stats().num_generated_tokens < 60);
}

#[test]
fn a_sink_that_breaks_off_or_panics_ends_its_request_alone() {
    let engine = engine(EngineConfig::default());
    engine.submit(request(&[1], long()), |_| ControlFlow::Break(())).unwrap();
    engine.submit(request(&[1], long()), |_| panic!("a sink's own defect")).unwrap();
    assert!(engine.generate(request(&[1], long())).is_ok());
    wait_until(&engine, |stats| stats.num_cancelled == 2);
    assert_eq!(engine.stats().num_used_blocks, 0);
}

#[test]
fn a_failed_step_ends_its_requests_and_the_next_one_works() {
    let (engine, gate) = gated_engine(EngineConfig::default());
    let streams: Vec<EventStream> = (0..3).map(|i| engine.stream(request(&[i], long())).unwrap()).collect();
    gate.send(Gate::Run).unwrap();
    gate.send(Gate::Fail).unwrap();
    for stream in streams {
        let error = stream.collect_output().unwrap_err();
        assert!(error.to_string().contains("on fire"), "{error}");
    }
    assert_eq!(engine.stats().num_used_blocks, 0);
    drop(gate);
    let answer = engine.generate(request(&[1], long())).unwrap();
    assert_eq!(
        said(&answer),
        said(&crate::world::engine(EngineConfig::default()).generate(request(&[1], long())).unwrap())
    );
}

#[test]
fn a_panic_reaches_every_caller() {
    let (engine, gate) = gated_engine(EngineConfig { max_num_seqs: 1, ..EngineConfig::default() });
    let running = engine.stream(request(&[1], long())).unwrap();
    wait_until(&engine, |stats| stats.num_running == 1);
    let waiting = engine.stream(request(&[2], long())).unwrap();
    gate.send(Gate::Panic).unwrap();
    for stream in [running, waiting] {
        assert!(matches!(last_event(stream), Event::Error(Error::Internal(what)) if what.contains("lost its mind")));
    }
    let error = engine.generate(request(&[3], long())).unwrap_err();
    assert!(error.to_string().contains("lost its mind"), "{error}");
    assert!(engine.is_broken());
    engine.shutdown();
}

#[test]
fn shutdown_ends_every_request_and_can_be_repeated() {
    let (engine, gate) = gated_engine(EngineConfig { max_num_seqs: 2, ..EngineConfig::default() });
    let streams: Vec<EventStream> = (0..5).map(|i| engine.stream(request(&[i], long())).unwrap()).collect();
    wait_until(&engine, |stats| stats.num_running > 0);
    gate.send(Gate::Run).unwrap();
    let closing = engine.clone();
    let closer = std::thread::spawn(move || closing.shutdown());
    while !matches!(engine.submit(request(&[1], long()), |_| ControlFlow::Continue(())), Err(Error::Cancelled(_))) {}
    drop(gate);
    closer.join().unwrap();
    for stream in streams {
        assert!(matches!(last_event(stream), Event::Error(Error::Cancelled(_))));
    }
    assert_eq!((engine.stats().num_used_blocks, engine.stats().num_running, engine.stats().num_waiting), (0, 0, 0));
    engine.shutdown();
    assert!(matches!(engine.generate(request(&[1], long())), Err(Error::Cancelled(_))));
    assert!(!engine.is_broken());
}

#[test]
fn the_engine_lives_as_long_as_handles_and_streams() {
    let engine = engine(EngineConfig::default());
    let stream = engine.stream(request(&[1, 2], long())).unwrap();
    drop(engine);
    assert_eq!(stream.collect_output().unwrap().outputs[0].token_ids.len(), 60);
}

#[test]
fn a_sink_may_use_the_handle_and_be_the_last_to_hold_it() {
    let engine = engine(EngineConfig::default());
    let (sender, events) = channel();
    let inner = engine.clone();
    let sink = move |event| {
        if matches!(event, Event::Done(_)) {
            let _ = sender.send(inner.submit(request(&[1], long()), |_| ControlFlow::Break(())));
        }
        ControlFlow::Continue(())
    };
    engine.submit(request(&[1, 2], long()), sink).unwrap();
    drop(engine);
    assert!(events.recv().unwrap().is_ok());
    assert!(events.recv().is_err(), "the sink is gone, and the engine with it");
}
