//! How lanes wait for each other: spin, then yield, then sleep.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A lane of the job has panicked.
#[derive(Debug)]
pub(super) struct Poisoned;

/// Two cache lines, which is what adjacent-line prefetchers fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct OwnLine<T>(T);

impl<T> OwnLine<T> {
    pub fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for OwnLine<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// How long a waiter holds on to its core before it sleeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    spin: Duration,
    /// Counted from the start of the wait, as `spin` is.
    yielding: Duration,
}

impl Patience {
    /// Spinning steals the core that the awaited lane needs where lanes outnumber CPUs.
    pub fn for_lanes(lanes: usize, cpus: usize) -> Self {
        let spin = if lanes > cpus { Duration::ZERO } else { Duration::from_micros(20) };
        Self { spin, yielding: Duration::from_micros(100) }
    }

    pub fn at_barriers(self) -> Self {
        self
    }

    /// Sampling and scheduling lie between two jobs: a wake-up there would cost more than they do.
    pub fn between_jobs(self) -> Self {
        Self { spin: 2 * self.spin, yielding: 3 * self.yielding }
    }
}

/// Opens again and again; waiters wait for the next opening after the one that they have seen.
#[derive(Debug, Default)]
pub(super) struct Gate(OwnLine<GateState>);

#[derive(Debug, Default)]
struct GateState {
    generation: AtomicU32,
    num_sleepers: AtomicU32,
    lock: Mutex<()>,
    opened: Condvar,
}

impl Gate {
    pub fn generation(&self) -> u32 {
        self.0.generation.load(Ordering::SeqCst)
    }

    pub fn open(&self) {
        self.0.generation.fetch_add(1, Ordering::SeqCst);
        // A sleeper counts itself before it looks at the generation for the last time: one of both sees the other.
        if self.0.num_sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.0.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.0.opened.notify_all();
        }
    }

    /// Waits until the generation is not `seen`, and returns it.
    pub fn wait_past(&self, seen: u32, patience: Patience) -> u32 {
        let is_open = || self.generation() != seen;
        if !spin_until(is_open, patience.spin) {
            self.yield_or_sleep(is_open, patience);
        }
        self.generation()
    }

    #[cold]
    fn yield_or_sleep(&self, is_open: impl Fn() -> bool, patience: Patience) {
        let begin = Instant::now();
        while patience.spin + begin.elapsed() < patience.yielding {
            std::thread::yield_now();
            if is_open() {
                return;
            }
        }
        let mut guard = self.0.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.num_sleepers.fetch_add(1, Ordering::SeqCst);
        while !is_open() {
            guard = self.0.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.0.num_sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether `done` became true within the time. The clock is read seldom: it costs more than a look.
fn spin_until(done: impl Fn() -> bool, time: Duration) -> bool {
    const LOOKS_PER_CLOCK_READ: usize = 16;
    let begin = Instant::now();
    loop {
        for _ in 0..LOOKS_PER_CLOCK_READ {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        if begin.elapsed() >= time {
            return false;
        }
    }
}

/// A sense-reversing barrier (the gate's generation is the sense): one read-modify-write per arrival,
/// and waiters look at a line that changes once per meeting.
#[derive(Debug, Default)]
pub(super) struct Barrier {
    num_arrived: OwnLine<AtomicUsize>,
    gate: Gate,
    poisoned: AtomicBool,
}

impl Barrier {
    /// Arrives without waiting, which `wait` then does. None for the last to come, who has nobody to wait for.
    pub fn come(&self, num_lanes: usize) -> Result<Option<u32>, Poisoned> {
        // The order matters: a poisoning after the look at the flag also moves the generation past `seen`.
        let seen = self.gate.generation();
        self.check()?;
        Ok((!self.arrive(num_lanes)).then_some(seen))
    }

    /// Waits for the others after `come`, and returns how long that took.
    pub fn wait(&self, seen: Option<u32>, patience: Patience) -> Result<Duration, Poisoned> {
        let Some(seen) = seen else { return self.check().map(|()| Duration::ZERO) };
        let begin = Instant::now();
        self.gate.wait_past(seen, patience);
        self.check().map(|()| begin.elapsed())
    }

    /// True for the last to come, who opens the gate.
    pub fn arrive(&self, num_lanes: usize) -> bool {
        let last = self.num_arrived.fetch_add(1, Ordering::AcqRel) + 1 == num_lanes;
        if last {
            self.num_arrived.store(0, Ordering::Relaxed);
            self.gate.open();
        }
        last
    }

    /// Ends all waits, present and future, with an error.
    pub fn poison(&self) {
        self.poisoned.store(true, Ordering::SeqCst);
        self.gate.open();
    }

    /// Makes a poisoned barrier usable again. No lane may be waiting.
    pub fn reset(&self) {
        if self.poisoned.load(Ordering::Relaxed) {
            self.num_arrived.store(0, Ordering::Relaxed);
            self.poisoned.store(false, Ordering::Relaxed);
        }
    }

    fn check(&self) -> Result<(), Poisoned> {
        if self.poisoned.load(Ordering::Acquire) { Err(Poisoned) } else { Ok(()) }
    }
}
