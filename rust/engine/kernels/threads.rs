//! The thread pool: one job per step, run by all lanes, which meet at barriers (SPMD).

use std::ops::Range;

use crate::error::Result;

/// Threads that wait for jobs: they spin briefly, then park.
#[derive(Debug)]
pub struct Pool {}

/// One thread's view of a running job.
#[derive(Debug, Clone, Copy)]
pub struct Lane<'a> {
    pub id: usize,
    pub count: usize,
    _pool: &'a Pool,
}

impl Pool {
    /// `threads` lanes; the caller of `run` is lane 0.
    pub fn new(_threads: usize) -> Self {
        todo!()
    }

    /// The cores that this process may use, hyperthreads of one core counted once.
    pub fn default_threads() -> usize {
        todo!()
    }

    pub fn num_lanes(&self) -> usize {
        todo!()
    }

    /// Runs `job` on every lane and returns when all have ended. A lane that panics poisons the job's
    /// barriers, so that the others end too, and the panic becomes `Error::Internal` with its message.
    pub fn run(&self, _job: &(dyn Fn(Lane<'_>) + Sync)) -> Result<()> {
        todo!()
    }
}

impl Lane<'_> {
    /// Waits for all lanes. Panics if one of them has panicked.
    pub fn barrier(&self) {
        todo!()
    }

    /// This lane's share of `n` items: contiguous, the same for the same `n`, sizes differing by at most one.
    pub fn share(&self, n: usize) -> Range<usize> {
        let at = |lane: usize| lane * n / self.count;
        at(self.id)..at(self.id + 1)
    }
}
