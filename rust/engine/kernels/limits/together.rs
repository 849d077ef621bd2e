//! Threads that work at the same time, and how much they get done.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::kernels::threads::topology::stay_on_core;

/// Enough to meet a moment without disturbance.
const ROUNDS: usize = 6;

/// Units of work per second of `threads` threads together, in the best of a few rounds of `time`. Each makes its own
/// worker with `make`; a call of the worker should take less than a tenth of `time`, and says how much it did.
pub fn rate<W: FnMut() -> u64>(threads: usize, time: Duration, make: impl Fn() -> W + Sync) -> f64 {
    let barrier = Barrier::new(threads);
    let run = |thread: usize| {
        // Rounds are over before the system would move a thread that shares its core.
        stay_on_core(thread);
        let mut worker = make();
        worker();
        std::array::from_fn::<f64, ROUNDS, _>(|_| {
            barrier.wait();
            let start = Instant::now();
            let mut done = 0;
            while start.elapsed() < time {
                done += worker();
            }
            done as f64 / start.elapsed().as_secs_f64()
        })
    };
    let run = &run;
    let rates: Vec<[f64; ROUNDS]> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || run(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("workers do not panic")).collect()
    });
    let of_round = |round: usize| rates.iter().map(|rates| rates[round]).sum();
    (0..ROUNDS).map(of_round).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_thread_has_a_worker_and_their_rates_add_up() {
        let workers = AtomicUsize::new(0);
        let make = || {
            workers.fetch_add(1, Ordering::Relaxed);
            || {
                std::thread::sleep(Duration::from_millis(1));
                1
            }
        };
        let rate = rate(3, Duration::from_millis(10), make);
        assert_eq!(workers.into_inner(), 3);
        // Sleeps of a millisecond or more: at most 1000 a second each.
        assert!(rate > 0.0 && rate <= 3000.0, "{rate}");
    }
}
