//! How long a word takes from core to core: tells whether they share a cache.

use std::time::Duration;

use crate::kernels::threads::distance::Ball;
use crate::kernels::threads::topology::stay_on_core;

const TRIPS: u32 = 500;
const ROUNDS: u32 = 20;

/// From one core to another and back, in the best of a few rounds. None: this process may use one CPU only.
pub fn round_trip() -> Option<Duration> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus > 1).then(measure)
}

fn measure() -> Duration {
    let ball = Ball::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stay_on_core(1);
            ball.give_back(ROUNDS, TRIPS);
        });
        let first = scope.spawn(|| {
            stay_on_core(0);
            ball.serve(ROUNDS, TRIPS)
        });
        first.join().unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ball_comes_back() {
        assert!(measure() > Duration::ZERO);
    }
}
