//! An answer as it comes, for `async for`.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrule_engine::{EngineHandle, Event, GenerateRequest, RequestId, TokenId};
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration};
use pyo3::prelude::*;

use crate::bridge::{Awaited, Bridge, is_pending, running_loop};
use crate::errors::Raise;
use crate::outputs::{RequestMetrics, TokenLogprob};
use crate::stream::{Facts, Step};

/// What the engine's thread and the event loop share.
struct Mailbox {
    event_loop: Py<PyAny>,
    facts: Facts,
    letters: Mutex<Letters>,
    closed: AtomicBool,
}

#[derive(Default)]
struct Letters {
    events: VecDeque<Event>,
    /// The loop has been told and has not looked yet.
    announced: bool,
    /// The future of an `__anext__` that waits.
    waiter: Option<Py<PyAny>>,
    ended: bool,
}

impl Mailbox {
    fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the engine's thread. True: the loop has to be told.
    fn put(&self, event: Event) -> bool {
        let mut letters = self.letters();
        letters.events.push_back(event);
        !std::mem::replace(&mut letters.announced, true)
    }

    /// Answers the waiting `__anext__`, if there is one and something to say.
    fn answer(&self, py: Python<'_>) -> PyResult<()> {
        let Some(waiter) = self.letters().waiter.take() else { return Ok(()) };
        let future = waiter.bind(py);
        // A future that was cancelled takes no delta with it.
        if !is_pending(future)? {
            return Ok(());
        }
        match self.next_step() {
            None => self.letters().waiter = Some(waiter),
            Some(Step::Delta(delta)) => drop(future.call_method1("set_result", (delta,))?),
            Some(Step::End) => drop(future.call_method1("set_exception", (PyStopAsyncIteration::new_err(()),))?),
            Some(Step::Failed(err)) => drop(future.call_method1("set_exception", (err,))?),
        }
        Ok(())
    }

    fn next_step(&self) -> Option<Step> {
        loop {
            let mut letters = self.letters();
            if letters.ended {
                return Some(Step::End);
            }
            let event = letters.events.pop_front()?;
            drop(letters);
            let step = self.facts.note(event);
            if matches!(step, Some(Step::End | Step::Failed(_))) {
                self.letters().ended = true;
            }
            if step.is_some() {
                return step;
            }
        }
    }
}

impl Awaited for Mailbox {
    fn event_loop(&self) -> &Py<PyAny> {
        &self.event_loop
    }

    fn wake(&self, py: Python<'_>) -> PyResult<()> {
        self.letters().announced = false;
        self.answer(py)
    }
}

/// Asynchronous iterator over the Deltas of one request. Closing or dropping it cancels the request.
#[pyclass(frozen, module = "ferrule")]
pub struct AsyncStream {
    mailbox: Arc<Mailbox>,
    engine: EngineHandle,
    id: RequestId,
}

impl AsyncStream {
    /// Submits on the running event loop.
    pub fn open(
        py: Python<'_>,
        engine: EngineHandle,
        bridge: Bridge,
        request: GenerateRequest,
        prompt_token_ids: Vec<TokenId>,
    ) -> PyResult<Self> {
        let mailbox = Arc::new(Mailbox {
            event_loop: running_loop(py)?,
            facts: Facts::new(prompt_token_ids),
            letters: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let id = py.detach(|| engine.submit(request, sink(mailbox.clone(), bridge))).raise()?;
        Ok(Self { mailbox, engine, id })
    }

    fn cancel(&self) {
        if !self.mailbox.closed.swap(true, Ordering::Relaxed) {
            self.engine.cancel(self.id);
        }
    }
}

fn sink(mailbox: Arc<Mailbox>, bridge: Bridge) -> impl FnMut(Event) -> ControlFlow<()> + Send + 'static {
    move |event| {
        if mailbox.closed.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        if mailbox.put(event) {
            bridge.notify(mailbox.clone());
        }
        ControlFlow::Continue(())
    }
}

impl Drop for AsyncStream {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[pymethods]
impl AsyncStream {
    fn __aiter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __anext__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.mailbox.event_loop.bind(py).call_method0("create_future")?;
        // No lock is held while Python runs: it may switch to a thread that wants the lock.
        let waiter = self.mailbox.letters().waiter.take();
        if let Some(waiter) = waiter
            && is_pending(waiter.bind(py))?
        {
            self.mailbox.letters().waiter = Some(waiter);
            return Err(PyRuntimeError::new_err("another task already waits for this stream's next delta"));
        }
        self.mailbox.letters().waiter = Some(future.clone().unbind());
        self.mailbox.answer(py)?;
        Ok(future)
    }

    /// Cancels the request if it still runs.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.cancel();
        self.mailbox.letters().ended = true;
        self.mailbox.answer(py)
    }

    #[getter]
    fn prompt_token_ids(&self) -> &[TokenId] {
        &self.mailbox.facts.prompt_token_ids
    }

    /// From the prompt's second token on, if asked for; known with the first delta.
    #[getter]
    fn prompt_logprobs(&self) -> Option<Vec<TokenLogprob>> {
        self.mailbox.facts.prompt_logprobs.get().cloned()
    }

    /// Known at the end.
    #[getter]
    fn metrics(&self) -> Option<RequestMetrics> {
        self.mailbox.facts.metrics.get().cloned()
    }
}
