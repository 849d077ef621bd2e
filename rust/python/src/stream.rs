//! An answer as it comes, for `for`.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use ferrule_engine::EventStream;
use ferrule_engine::{Event, TokenId};
use pyo3::prelude::*;

use crate::errors::exception;
use crate::outputs::{Delta, RequestMetrics, TokenLogprob, logprobs};
use crate::wait::{Signals, next_event};

/// What a stream knows besides its deltas.
#[derive(Default)]
pub struct Facts {
    pub prompt_token_ids: Vec<TokenId>,
    pub prompt_logprobs: OnceLock<Vec<TokenLogprob>>,
    pub metrics: OnceLock<RequestMetrics>,
}

impl Facts {
    pub fn new(prompt_token_ids: Vec<TokenId>) -> Self {
        Self { prompt_token_ids, ..Self::default() }
    }

    /// Keeps what an event says; a delta, or the end of the stream, is handed on.
    pub fn note(&self, event: Event) -> Option<Step> {
        match event {
            Event::Delta(delta) => return Some(Step::Delta(delta.into())),
            Event::Done(metrics) => {
                self.metrics.get_or_init(|| metrics.into());
                return Some(Step::End);
            }
            Event::Error(err) => return Some(Step::Failed(exception(&err))),
            Event::PromptLogprobs(of) => {
                self.prompt_logprobs.get_or_init(|| logprobs(of).unwrap_or_default());
            }
            Event::Embedding(_) => {}
        }
        None
    }
}

/// What an iterator has to say.
pub enum Step {
    Delta(Delta),
    End,
    Failed(PyErr),
}

/// Iterator over the Deltas of one request. Closing or dropping it cancels the request.
#[pyclass(frozen, module = "ferrule")]
pub struct Stream {
    /// None: ended or closed.
    events: Mutex<Option<EventStream>>,
    facts: Facts,
}

impl Stream {
    pub fn new(events: EventStream) -> Self {
        let facts = Facts::new(events.prompt_token_ids().to_vec());
        Self { events: Mutex::new(Some(events)), facts }
    }

    fn events(&self) -> MutexGuard<'_, Option<EventStream>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self) -> PyResult<Option<Delta>> {
        let mut events = self.events();
        let mut signals = Signals::new();
        while let Some(stream) = events.as_mut() {
            let step = next_event(stream, &mut signals)?.map_or(Some(Step::End), |event| self.facts.note(event));
            match step {
                None => continue,
                Some(Step::Delta(delta)) => return Ok(Some(delta)),
                Some(Step::End) => *events = None,
                Some(Step::Failed(err)) => {
                    *events = None;
                    return Err(err);
                }
            }
        }
        Ok(None)
    }
}

#[pymethods]
impl Stream {
    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Delta>> {
        py.detach(|| self.step())
    }

    /// Cancels the request if it still runs.
    fn close(&self, py: Python<'_>) {
        py.detach(|| *self.events() = None);
    }

    #[getter]
    fn prompt_token_ids(&self) -> &[TokenId] {
        &self.facts.prompt_token_ids
    }

    /// From the prompt's second token on, if asked for; known with the first delta.
    #[getter]
    fn prompt_logprobs(&self) -> Option<Vec<TokenLogprob>> {
        self.facts.prompt_logprobs.get().cloned()
    }

    /// Known at the end.
    #[getter]
    fn metrics(&self) -> Option<RequestMetrics> {
        self.facts.metrics.get().cloned()
    }
}
