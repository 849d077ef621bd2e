//! Whole answers to many requests, for callers that wait.

use std::time::Duration;

use ferrule_engine::EventStream;
use ferrule_engine::{EngineHandle, Error, GenerateOutput, GenerateRequest};
use pyo3::prelude::*;

use crate::errors::{Raise, exception};
use crate::wait::{Signals, next_event, pause};
use ferrule_engine::output::Collector;

/// Before a request is offered again to a queue that was full.
pub const RETRY: Duration = Duration::from_millis(5);

/// Submits all and waits; Ctrl-C, or the first error, cancels what still runs. Call it without the GIL.
pub fn run(engine: &EngineHandle, requests: Vec<GenerateRequest>) -> PyResult<Vec<GenerateOutput>> {
    let mut signals = Signals::new();
    let streams: Vec<EventStream> =
        requests.into_iter().map(|request| submit(engine, request, &mut signals)).collect::<PyResult<_>>()?;
    streams.into_iter().map(|stream| collect(stream, &mut signals)).collect()
}

fn submit(engine: &EngineHandle, request: GenerateRequest, signals: &mut Signals) -> PyResult<EventStream> {
    loop {
        match engine.stream(request.clone()) {
            Err(Error::Overloaded { .. }) => pause(RETRY, signals)?,
            result => return result.raise(),
        }
    }
}

fn collect(mut stream: EventStream, signals: &mut Signals) -> PyResult<GenerateOutput> {
    let mut collector = Collector::new(stream.prompt_token_ids().to_vec());
    while let Some(event) = next_event(&mut stream, signals)? {
        if let Some(output) = collector.push(event) {
            return output.raise();
        }
    }
    Err(exception(&Error::Internal("a request ended without a last event".into())))
}
