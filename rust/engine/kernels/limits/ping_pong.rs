//! How long a word takes from core to core: tells whether they share a cache.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::kernels::threads::topology::stay_on_core;

const BALLS: u32 = 500;
const ROUNDS: u32 = 20;

/// From one core to another and back, in the best of a few rounds. None: this process may use one CPU only.
pub fn round_trip() -> Option<Duration> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus > 1).then(measure)
}

fn measure() -> Duration {
    let table = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stay_on_core(1);
            (0..ROUNDS * BALLS).for_each(|ball| hit(&table, 2 * ball + 1));
        });
        let first = scope.spawn(|| {
            stay_on_core(0);
            (0..ROUNDS).map(|round| serve(&table, round * BALLS)).min()
        });
        first.join().ok().flatten().unwrap_or_default()
    })
}

/// The time of one of the balls from `first` on.
fn serve(table: &AtomicU32, first: u32) -> Duration {
    let start = Instant::now();
    (first..first + BALLS).for_each(|ball| hit(table, 2 * ball));
    start.elapsed() / BALLS
}

/// Waits until the counter is at `turn`, and passes it on.
fn hit(table: &AtomicU32, turn: u32) {
    let mut spins = 0;
    while table.load(Ordering::Acquire) != turn {
        spin_loop();
        spins += 1;
        // The other one may wait for this very core.
        if spins % 1024 == 0 {
            std::thread::yield_now();
        }
    }
    table.store(turn + 1, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ball_comes_back() {
        assert!(measure() > Duration::ZERO);
    }
}
