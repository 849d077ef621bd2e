//! The one bounded queue between callers and the engine's thread.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::ids::RequestId;
use crate::output::Event;
use crate::request::Request;
use crate::snapshot::Snapshot;

/// Called on the engine's thread; `Break` ends the request.
pub type Sink = Box<dyn FnMut(Event) -> ControlFlow<()> + Send>;

/// Called on the engine's thread.
pub type Watcher = Box<dyn FnOnce(Snapshot) + Send>;

pub struct Submission {
    pub request: Request,
    pub sink: Sink,
    pub submitted: Instant,
}

/// What came in since the last step.
#[derive(Default)]
pub struct Batch {
    pub submissions: VecDeque<Submission>,
    pub cancelled: Vec<RequestId>,
    pub watchers: Vec<Watcher>,
}

pub struct Intake {
    /// Requests that may wait, here and in the scheduler together.
    max_queue_len: usize,
    state: Mutex<State>,
    /// Something came in.
    work: Condvar,
    /// A request may have left the queue.
    room: Condvar,
}

#[derive(Default)]
struct State {
    batch: Batch,
    /// Waiting in the scheduler.
    num_scheduler_waiting: usize,
    /// Why nothing is taken any more.
    closed: Option<Error>,
}

impl State {
    fn num_waiting(&self) -> usize {
        self.batch.submissions.len() + self.num_scheduler_waiting
    }
}

impl Intake {
    pub fn new(max_queue_len: usize) -> Self {
        Self { max_queue_len, state: Mutex::default(), work: Condvar::new(), room: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete at once, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues, or answers `Overloaded` at once.
    pub fn push(&self, submission: Submission) -> Result<()> {
        let state = self.lock();
        match state.num_waiting() {
            queued if queued >= self.max_queue_len && state.closed.is_none() => {
                Err(Error::Overloaded { queued, limit: self.max_queue_len })
            }
            _ => self.push_locked(state, submission),
        }
    }

    /// Enqueues as soon as there is room.
    pub fn push_waiting(&self, submission: Submission) -> Result<()> {
        let full = |state: &mut State| state.num_waiting() >= self.max_queue_len && state.closed.is_none();
        let state = self.room.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        self.push_locked(state, submission)
    }

    fn push_locked(&self, mut state: MutexGuard<'_, State>, submission: Submission) -> Result<()> {
        if let Some(why) = &state.closed {
            return Err(why.clone());
        }
        state.batch.submissions.push_back(submission);
        self.work.notify_one();
        Ok(())
    }

    pub fn cancel(&self, id: RequestId) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.batch.cancelled.push(id);
            self.work.notify_one();
        }
    }

    /// Drops the watcher if the engine has ended.
    pub fn watch(&self, watcher: Watcher) {
        let mut state = self.lock();
        if state.closed.is_none() {
            state.batch.watchers.push(watcher);
            self.work.notify_one();
        }
    }

    /// Takes nothing any more, for this reason. The first reason stays.
    pub fn close(&self, why: Error) {
        self.lock().closed.get_or_insert(why);
        self.work.notify_one();
        self.room.notify_all();
    }

    /// A defect ended the engine.
    pub fn is_broken(&self) -> bool {
        matches!(self.lock().closed, Some(Error::Internal(_)))
    }

    /// Parks the engine's thread until there is something to do. False: closed.
    pub fn wait(&self, busy: bool) -> bool {
        let idle = |state: &mut State| {
            let Batch { submissions, cancelled, watchers } = &state.batch;
            let nothing_came = submissions.is_empty() && cancelled.is_empty() && watchers.is_empty();
            !busy && nothing_came && state.closed.is_none()
        };
        self.work.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner).closed.is_none()
    }

    /// Everything that came in. The requests keep counting as waiting until `set_num_waiting`.
    pub fn drain(&self) -> Batch {
        let mut state = self.lock();
        state.num_scheduler_waiting += state.batch.submissions.len();
        std::mem::take(&mut state.batch)
    }

    /// How many requests wait in the scheduler.
    pub fn set_num_waiting(&self, num_waiting: usize) {
        self.lock().num_scheduler_waiting = num_waiting;
        self.room.notify_all();
    }

    /// Requests that wait, here and in the scheduler.
    pub fn num_waiting(&self) -> usize {
        self.lock().num_waiting()
    }
}
