//! The thread pool: one job per step, run by all lanes, which meet at barriers (SPMD).

mod barrier;
pub mod distance;
pub(super) mod topology;

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use barrier::{Barrier, Gate, Patience, Poisoned};

/// Threads that wait for jobs: they spin briefly, then park.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    busy: AtomicBool,
}

/// One thread's view of a running job.
#[derive(Debug, Clone, Copy)]
pub struct Lane<'a> {
    pub id: usize,
    pub count: usize,
    shared: &'a Shared,
}

/// What the caller of `run` and the workers exchange.
struct Shared {
    /// Opens once per job.
    start: Gate,
    /// Written while all workers wait at `start`. None tells them to end.
    job: UnsafeCell<Option<Job>>,
    /// Where lanes meet within a job.
    meet: Barrier,
    /// Completes when all lanes have left the job.
    end: Barrier,
    patience: Patience,
    /// The first panic of the running job.
    panic: Mutex<Option<String>>,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(Lane<'_>) + Sync),
    num_lanes: usize,
}

// SAFETY: `job` is written only by the thread that holds `Pool::busy`, before `start` opens, and read by
// workers only after it opened and before they arrive at `end`, which that thread waits for. The task
// behind the pointer is Sync, and `run` outlives the job.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Pool {
    /// `threads` lanes (at least one); the caller of `run` is lane 0. Has fewer if the system refuses more threads.
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::new(Patience::for_lanes(threads, topology::allowed_cpus())));
        let spawn = |id: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("ferrule-lane-{id}")).spawn(move || shared.work(id))
        };
        let workers: Vec<_> = (1..threads).map_while(|id| spawn(id).ok()).collect();
        if workers.len() + 1 < threads {
            tracing::warn!(wanted = threads, got = workers.len() + 1, "the system refused more threads");
        }
        Self { shared, workers, busy: AtomicBool::new(false) }
    }

    /// The cores that this process may use, hyperthreads of one core counted once.
    pub fn default_threads() -> usize {
        let cpus = topology::allowed_cpus();
        topology::physical_cores().map_or(cpus, |cores| cores.min(cpus))
    }

    pub fn num_lanes(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `job` on every lane and returns when all have ended. A lane that panics poisons the job's
    /// barriers, so that the others end too, and the panic becomes `Error::Internal` with its message.
    /// A job cannot start another one on its own pool.
    pub fn run(&self, job: &(dyn Fn(Lane<'_>) + Sync)) -> Result<()> {
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(Error::Internal("the thread pool was given a job while it runs another one".into()));
        }
        let outcome = self.shared.run(job, self.num_lanes());
        self.busy.store(false, Ordering::Release);
        outcome.map_err(|message| Error::Internal(format!("a compute thread panicked: {message}")))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: `&mut self` means that no job runs: all workers wait at `start`.
        unsafe { *self.shared.job.get() = None };
        self.shared.start.open();
        for worker in self.workers.drain(..) {
            worker.join().expect("a worker catches its job's panics");
        }
    }
}

impl Shared {
    fn new(patience: Patience) -> Self {
        Self {
            start: Gate::default(),
            job: UnsafeCell::new(None),
            meet: Barrier::default(),
            end: Barrier::default(),
            patience,
            panic: Mutex::new(None),
        }
    }

    /// Lane 0's part of a job: hands it out, does its share, waits for the others.
    fn run(&self, task: &(dyn Fn(Lane<'_>) + Sync), num_lanes: usize) -> Result<(), String> {
        // SAFETY: only the lifetime changes; no lane uses the task after `end`, which this call waits for.
        let task: *const (dyn Fn(Lane<'_>) + Sync) = unsafe { std::mem::transmute(task) };
        let job = Job { task, num_lanes };
        if num_lanes > 1 {
            // SAFETY: the caller holds `busy`, and all workers wait at `start`.
            unsafe { *self.job.get() = Some(job) };
            self.start.open();
        }
        self.run_lane(job, 0);
        self.end.wait(num_lanes, self.patience.at_barriers()).expect("`end` is never poisoned");
        self.meet.reset();
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// A worker's life.
    fn work(&self, id: usize) {
        let mut seen = 0;
        loop {
            seen = self.start.wait_past(seen, self.patience.between_jobs());
            // SAFETY: `start` has opened, and `job` is not written again before this lane arrives at `end`.
            let Some(job) = (unsafe { *self.job.get() }) else { return };
            self.run_lane(job, id);
            self.end.arrive(job.num_lanes);
        }
    }

    fn run_lane(&self, job: Job, id: usize) {
        let lane = Lane { id, count: job.num_lanes, shared: self };
        // SAFETY: the task lives until this lane has arrived at `end`.
        let task = unsafe { &*job.task };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(lane))) {
            self.note_panic(payload);
            self.meet.poison();
        }
    }

    fn note_panic(&self, payload: Box<dyn Any + Send>) {
        if payload.is::<Poisoned>() {
            return;
        }
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|s| s.to_string()));
        let text = text.unwrap_or_else(|| "no message".into());
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
    }
}

impl Lane<'_> {
    /// Waits for all lanes. Panics if one of them has panicked.
    pub fn barrier(&self) {
        if self.count == 1 {
            return;
        }
        if let Err(poisoned) = self.shared.meet.wait(self.count, self.shared.patience.at_barriers()) {
            // Quietly: the lane that panicked first has already told the panic hook.
            resume_unwind(Box::new(poisoned));
        }
    }

    /// This lane's share of `n` items: contiguous, the same for the same `n`, sizes differing by at most one.
    pub fn share(&self, n: usize) -> Range<usize> {
        let at = |lane: usize| lane * n / self.count;
        at(self.id)..at(self.id + 1)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("num_lanes", &self.num_lanes()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
