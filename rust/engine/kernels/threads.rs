//! The thread pool: one job per step, run by all lanes, which meet at barriers (SPMD).

mod barrier;
pub mod distance;
pub mod pace;
pub mod shares;
pub(super) mod topology;

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use barrier::{Barrier, Gate, OwnLine, Patience, Poisoned};
use pace::Pace;
use topology::Stay;

/// Threads that wait for jobs: they spin briefly, then park.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    busy: AtomicBool,
    even: Pace,
}

/// One thread's view of a running job.
#[derive(Debug, Clone, Copy)]
pub struct Lane<'a> {
    pub id: usize,
    pub count: usize,
    cuts: &'a [u64],
    shared: &'a Shared,
}

/// That a lane has come to a barrier where it has not waited yet.
#[derive(Debug)]
#[must_use]
pub struct Arrival(Option<u32>);

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
    /// Of each lane in the running job.
    times: Vec<OwnLine<Times>>,
    /// The CPU on which each lane began its latest job.
    cpus: Vec<OwnLine<AtomicUsize>>,
    /// There is a CPU for every lane.
    is_roomy: bool,
    /// Where each lane stays, near what it was the first to write. Empty: all memory is as near to each.
    homes: Vec<Vec<usize>>,
    /// The first panic of the running job.
    panic: Mutex<Option<String>>,
}

/// Nanoseconds.
#[derive(Default)]
struct Times {
    waited: AtomicU64,
    worked: AtomicU64,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const (dyn Fn(Lane<'_>) + Sync),
    num_lanes: usize,
    cuts: *const [u64],
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
        Self::at(threads, topology::homes(&topology::nodes(), threads))
    }

    /// The same with lanes near the CPUs of their homes, if there are any.
    pub(crate) fn at(threads: usize, homes: Vec<Vec<usize>>) -> Self {
        let shared = Arc::new(Shared::new(threads.max(1), topology::allowed_cpus(), homes));
        let spawn = |id: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("ferrule-lane-{id}")).spawn(move || shared.work(id))
        };
        let workers: Vec<_> = (1..threads).map_while(|id| spawn(id).ok()).collect();
        if workers.len() + 1 < threads {
            tracing::warn!(wanted = threads, got = workers.len() + 1, "the system refused more threads");
        }
        let even = Pace::even(workers.len() + 1);
        Self { shared, workers, busy: AtomicBool::new(false), even }
    }

    /// The cores that this process may use, hyperthreads of one core counted once.
    pub fn default_threads() -> usize {
        let cpus = topology::allowed_cpus();
        topology::physical_cores().map_or(cpus, |cores| cores.min(cpus))
    }

    pub fn num_lanes(&self) -> usize {
        self.workers.len() + 1
    }

    /// Whether lanes are near different memory.
    pub fn spans_nodes(&self) -> bool {
        !self.shared.homes.is_empty()
    }

    /// Runs `job` on every lane and returns when all have ended. A lane that panics poisons the job's
    /// barriers, so that the others end too, and the panic becomes `Error::Internal` with its message.
    /// A job cannot start another one on its own pool.
    pub fn run(&self, job: &(dyn Fn(Lane<'_>) + Sync)) -> Result<()> {
        self.run_by(&self.even, job)
    }

    /// The same with shares at the lanes' pace, which is learned from it.
    pub fn run_at(&self, pace: &mut Pace, job: &(dyn Fn(Lane<'_>) + Sync)) -> Result<()> {
        self.run_by(pace, job)?;
        pace.learn(|lane| Duration::from_nanos(self.shared.times[lane].worked.load(Ordering::Relaxed)));
        Ok(())
    }

    fn run_by(&self, pace: &Pace, job: &(dyn Fn(Lane<'_>) + Sync)) -> Result<()> {
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(Error::Internal("the thread pool was given a job while it runs another one".into()));
        }
        let outcome = self.shared.run(job, self.num_lanes(), pace.cuts());
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
    fn new(num_lanes: usize, num_cpus: usize, homes: Vec<Vec<usize>>) -> Self {
        Self {
            start: Gate::default(),
            job: UnsafeCell::new(None),
            meet: Barrier::default(),
            end: Barrier::default(),
            patience: Patience::for_lanes(num_lanes, num_cpus),
            times: (0..num_lanes).map(|_| OwnLine::default()).collect(),
            cpus: (0..num_lanes).map(|_| OwnLine::new(AtomicUsize::new(usize::MAX))).collect(),
            is_roomy: num_lanes <= num_cpus,
            homes,
            panic: Mutex::new(None),
        }
    }

    /// Lane 0's part of a job: hands it out, does its share, waits for the others.
    fn run(&self, task: &(dyn Fn(Lane<'_>) + Sync), num_lanes: usize, cuts: &[u64]) -> Result<(), String> {
        // SAFETY: only the lifetime changes; no lane uses the task after `end`, which this call waits for.
        let task: *const (dyn Fn(Lane<'_>) + Sync) = unsafe { std::mem::transmute(task) };
        let job = Job { task, num_lanes, cuts };
        // The caller's thread is not the pool's.
        let _stay = self.homes.first().map(|home| Stay::on(home));
        if num_lanes > 1 {
            self.take_place(0);
            // SAFETY: the caller holds `busy`, and all workers wait at `start`.
            unsafe { *self.job.get() = Some(job) };
            self.start.open();
        }
        self.run_lane(job, 0);
        let waited = self.end.come(num_lanes).and_then(|seen| self.end.wait(seen, self.patience.at_barriers()));
        waited.expect("`end` is never poisoned");
        self.meet.reset();
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// A worker's life.
    fn work(&self, id: usize) {
        if let Some(home) = self.homes.get(id) {
            topology::stay_on(home);
        }
        let mut seen = 0;
        loop {
            seen = self.start.wait_past(seen, self.patience.between_jobs());
            // SAFETY: `start` has opened, and `job` is not written again before this lane arrives at `end`.
            let Some(job) = (unsafe { *self.job.get() }) else { return };
            self.take_place(id);
            self.run_lane(job, id);
            self.end.arrive(job.num_lanes);
        }
    }

    /// Leaves a CPU that a lane before has. The system wakes a thread where its waker runs, if others are busy just then, and
    /// lets the two take turns for milliseconds before it looks again.
    fn take_place(&self, id: usize) {
        let Some(cpu) = topology::current_cpu().filter(|_| self.is_roomy) else { return };
        let before = self.cpus[..id].iter().map(|cpu| cpu.load(Ordering::Relaxed));
        let cpu = match before.clone().any(|other| other == cpu) {
            true => topology::leave(&before.collect::<Vec<_>>()).unwrap_or(cpu),
            false => cpu,
        };
        // Others look at it in every job, and find it in their caches as long as it stays.
        if self.cpus[id].load(Ordering::Relaxed) != cpu {
            self.cpus[id].store(cpu, Ordering::Relaxed);
        }
    }

    fn run_lane(&self, job: Job, id: usize) {
        // SAFETY: both live until this lane has arrived at `end`.
        let (task, cuts) = unsafe { (&*job.task, &*job.cuts) };
        let lane = Lane { id, count: job.num_lanes, cuts, shared: self };
        let times = &self.times[id];
        times.waited.store(0, Ordering::Relaxed);
        let begin = Instant::now();
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(lane))) {
            self.note_panic(payload);
            self.meet.poison();
        }
        let worked = nanoseconds(begin.elapsed()).saturating_sub(times.waited.load(Ordering::Relaxed));
        times.worked.store(worked, Ordering::Relaxed);
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
        self.wait_for(self.arrive());
    }

    /// The first half of a barrier: what this lane did is done, for those who wait. It waits itself before it arrives again.
    pub fn arrive(&self) -> Arrival {
        if self.count == 1 {
            return Arrival(None);
        }
        Arrival(self.shared.meet.come(self.count).unwrap_or_else(end_quietly))
    }

    /// The second half.
    pub fn wait_for(&self, Arrival(seen): Arrival) {
        if self.count == 1 {
            return;
        }
        let waited = self.shared.meet.wait(seen, self.shared.patience.at_barriers()).unwrap_or_else(end_quietly);
        let all = &self.shared.times[self.id].waited;
        all.store(all.load(Ordering::Relaxed) + nanoseconds(waited), Ordering::Relaxed);
    }

    /// This lane's share of `n` items: contiguous, the same for the same `n` throughout a job. Sizes differ by at most one,
    /// unless the job is run at the lanes' pace.
    pub fn share(&self, n: usize) -> Range<usize> {
        pace::share(self.cuts, self.id, n)
    }
}

/// The lane that panicked first has already told the panic hook.
fn end_quietly<T>(poisoned: Poisoned) -> T {
    resume_unwind(Box::new(poisoned))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
