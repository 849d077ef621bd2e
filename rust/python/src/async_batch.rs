//! Whole answers to many requests, for `await`.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrule_engine::{EngineHandle, Error, Event, GenerateOutput, GenerateRequest, RequestId, TokenId};
use pyo3::prelude::*;

use crate::batch::RETRY;
use crate::bridge::{Awaited, Bridge, is_pending, running_loop};
use crate::errors::exception;
use crate::outputs::RequestOutput;
use ferrule_engine::output::Collector;

/// A request with its prompt as the answer will show it.
pub struct Item {
    pub request: GenerateRequest,
    pub prompt: Option<String>,
    pub prompt_token_ids: Vec<TokenId>,
}

/// Requests whose answers become one future's result.
struct Batch {
    engine: EngineHandle,
    bridge: Bridge,
    event_loop: Py<PyAny>,
    future: Py<PyAny>,
    prompts: Vec<Option<String>>,
    progress: Mutex<Progress>,
    cancelled: AtomicBool,
}

struct Progress {
    /// Not submitted yet: the queue was full.
    waiting: VecDeque<(usize, Item)>,
    running: Vec<RequestId>,
    outputs: Vec<Option<GenerateOutput>>,
    failure: Option<Error>,
}

/// Submits on the running event loop; returns the future of a list of RequestOutput.
pub fn start<'py>(
    py: Python<'py>,
    engine: EngineHandle,
    bridge: Bridge,
    items: Vec<Item>,
) -> PyResult<Bound<'py, PyAny>> {
    let event_loop = running_loop(py)?;
    let future = event_loop.bind(py).call_method0("create_future")?;
    let batch = Arc::new(Batch {
        engine,
        bridge,
        event_loop,
        future: future.clone().unbind(),
        prompts: items.iter().map(|item| item.prompt.clone()).collect(),
        progress: Mutex::new(Progress {
            outputs: items.iter().map(|_| None).collect(),
            waiting: items.into_iter().enumerate().collect(),
            running: Vec::new(),
            failure: None,
        }),
        cancelled: AtomicBool::new(false),
    });
    future.call_method1("add_done_callback", (Cancel(batch.clone()),))?;
    Submit(batch.clone()).__call__(py)?;
    if batch.prompts.is_empty() {
        batch.wake(py)?;
    }
    Ok(future)
}

impl Batch {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the engine's thread. True: the future can be settled.
    fn finish(&self, index: usize, result: Result<GenerateOutput, Error>) -> bool {
        let mut progress = self.progress();
        match result {
            Ok(output) => progress.outputs[index] = Some(output),
            Err(err) => progress.failure = Some(err),
        }
        progress.failure.is_some() || progress.outputs.iter().all(Option::is_some)
    }

    fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        let running = std::mem::take(&mut self.progress().running);
        for id in running {
            self.engine.cancel(id);
        }
    }

    fn result(&self) -> Result<Vec<RequestOutput>, Error> {
        let mut progress = self.progress();
        match progress.failure.take() {
            Some(err) => Err(err),
            None => {
                let outputs = progress.outputs.drain(..).flatten();
                Ok(self
                    .prompts
                    .iter()
                    .cloned()
                    .zip(outputs)
                    .map(|(prompt, of)| RequestOutput::new(prompt, of))
                    .collect())
            }
        }
    }
}

impl Awaited for Batch {
    fn event_loop(&self) -> &Py<PyAny> {
        &self.event_loop
    }

    fn wake(&self, py: Python<'_>) -> PyResult<()> {
        let future = self.future.bind(py);
        if is_pending(future)? {
            match self.result() {
                Ok(outputs) => future.call_method1("set_result", (outputs,))?,
                Err(err) => future.call_method1("set_exception", (exception(&err),))?,
            };
        }
        Ok(())
    }
}

fn sink(
    batch: Arc<Batch>,
    index: usize,
    prompt: Vec<TokenId>,
) -> impl FnMut(Event) -> ControlFlow<()> + Send + 'static {
    let mut collector = Collector::new(prompt);
    move |event| {
        if batch.cancelled.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        if let Some(result) = collector.push(event)
            && batch.finish(index, result)
        {
            batch.bridge.notify(batch.clone());
        }
        ControlFlow::Continue(())
    }
}

/// Submits what waits; again in a moment if the engine's queue is full.
#[pyclass(frozen)]
struct Submit(Arc<Batch>);

#[pymethods]
impl Submit {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let batch = &self.0;
        if !is_pending(batch.future.bind(py))? {
            return Ok(());
        }
        match py.detach(|| submit_waiting(batch)) {
            Ok(()) => Ok(()),
            Err(Error::Overloaded { .. }) => {
                let again = (RETRY.as_secs_f64(), Self(batch.clone()));
                batch.event_loop.call_method1(py, "call_later", again).map(drop)
            }
            Err(err) => {
                batch.progress().failure = Some(err);
                batch.wake(py)
            }
        }
    }
}

fn submit_waiting(batch: &Arc<Batch>) -> Result<(), Error> {
    loop {
        let Some((index, item)) = batch.progress().waiting.pop_front() else { return Ok(()) };
        let sink = sink(batch.clone(), index, item.prompt_token_ids.clone());
        let submitted = batch.engine.submit(item.request.clone(), sink);
        let mut progress = batch.progress();
        match submitted {
            Ok(id) => progress.running.push(id),
            Err(err) => {
                progress.waiting.push_front((index, item));
                return Err(err);
            }
        }
    }
}

/// The future's done-callback: what it does not need any more is cancelled.
#[pyclass(frozen)]
struct Cancel(Arc<Batch>);

#[pymethods]
impl Cancel {
    fn __call__(&self, _future: &Bound<'_, PyAny>) {
        self.0.cancel();
    }
}
