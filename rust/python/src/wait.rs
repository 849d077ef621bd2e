//! Waiting without the GIL, and with Ctrl-C.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ferrule_engine::{Event, EventStream, GenerateOutput, PendingOutput};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use crate::errors::Raise;

/// How long Ctrl-C may go unnoticed.
const PERIOD: Duration = Duration::from_millis(50);

/// Runs Python's signal handlers now and then.
pub struct Signals {
    checked: Instant,
}

impl Signals {
    pub fn new() -> Self {
        Self { checked: Instant::now() }
    }

    /// The handlers' exception, KeyboardInterrupt as a rule, ends the wait.
    pub fn poll(&mut self) -> PyResult<()> {
        if self.checked.elapsed() < PERIOD {
            return Ok(());
        }
        self.checked = Instant::now();
        Python::attach(|py| py.check_signals())
    }
}

/// The stream's next event; call it without the GIL.
pub fn next_event(stream: &mut EventStream, signals: &mut Signals) -> PyResult<Option<Event>> {
    loop {
        signals.poll()?;
        if let Ok(event) = stream.next_timeout(PERIOD) {
            return Ok(event);
        }
    }
}

/// The whole answer; call it without the GIL.
pub fn output_of(mut output: PendingOutput, signals: &mut Signals) -> PyResult<GenerateOutput> {
    loop {
        signals.poll()?;
        if let Some(output) = output.wait_timeout(PERIOD) {
            return output.raise();
        }
    }
}

/// A pause that Ctrl-C ends; call it without the GIL.
pub fn pause(time: Duration, signals: &mut Signals) -> PyResult<()> {
    thread::sleep(time);
    signals.poll()
}

/// Runs `work` on a thread of its own, so that Ctrl-C does not wait for its end.
pub fn interruptible<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> PyResult<T> + Send + 'static,
) -> PyResult<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    py.detach(move || {
        loop {
            match receiver.recv_timeout(PERIOD) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => Python::attach(|py| py.check_signals())?,
                Err(RecvTimeoutError::Disconnected) => return Err(PyRuntimeError::new_err("the worker thread died")),
            }
        }
    })
}
