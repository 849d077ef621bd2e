//! Whole answers to many requests, for callers that wait.

use std::time::Duration;

use ferrule_engine::{EngineHandle, Error, GenerateOutput, GenerateRequest, PendingOutput};
use pyo3::prelude::*;

use crate::errors::Raise;
use crate::wait::{Signals, output_of, pause};

/// Before a request is offered again to a queue that was full.
pub const RETRY: Duration = Duration::from_millis(5);

/// Submits all and waits; Ctrl-C, or the first error, cancels what still runs. Call it without the GIL.
pub fn run(engine: &EngineHandle, requests: Vec<GenerateRequest>) -> PyResult<Vec<GenerateOutput>> {
    let mut signals = Signals::new();
    let outputs: Vec<PendingOutput> =
        requests.into_iter().map(|request| submit(engine, request, &mut signals)).collect::<PyResult<_>>()?;
    outputs.into_iter().map(|output| output_of(output, &mut signals)).collect()
}

fn submit(engine: &EngineHandle, request: GenerateRequest, signals: &mut Signals) -> PyResult<PendingOutput> {
    loop {
        match engine.begin(request.clone()) {
            Err(Error::Overloaded { .. }) => pause(RETRY, signals)?,
            result => return result.raise(),
        }
    }
}
