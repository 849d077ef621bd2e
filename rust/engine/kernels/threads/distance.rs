//! How far a pool's cores are from each other. It is looked at again now and then: a virtual machine's cores move.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Pool;
use crate::config::Cores;
use crate::error::Result;

/// From here on a word's way to another core and back does not stay in one cache. Cores that share one take 40 to 60 ns.
const FAR: Duration = Duration::from_nanos(150);

/// Of more lanes than this some share a cache, for all we know.
const MOST_LANES: usize = 8;

/// How long what was seen holds.
const GOOD_FOR: Duration = Duration::from_secs(1);

const ROUNDS: u32 = 4;
const TRIPS: u32 = 16;

/// A word that two threads pass to and fro.
#[derive(Default)]
#[repr(align(64))]
pub struct Ball(AtomicU32);

impl Ball {
    /// The time of a trip to the thread that gives it back and home again, the best of a few rounds of several.
    pub fn serve(&self, rounds: u32, trips: u32) -> Duration {
        let round = |round: u32| {
            let begin = Instant::now();
            (round * trips..(round + 1) * trips).for_each(|trip| self.pass(2 * trip));
            begin.elapsed() / trips
        };
        (0..rounds).map(round).min().unwrap_or_default()
    }

    /// The other side of as many.
    pub fn give_back(&self, rounds: u32, trips: u32) {
        (0..rounds * trips).for_each(|trip| self.pass(2 * trip + 1));
    }

    /// Waits for this turn, and passes the ball on.
    fn pass(&self, turn: u32) {
        let mut spins = 0;
        while self.0.load(Ordering::Acquire) != turn {
            spin_loop();
            spins += 1;
            // The other one may wait for this very core.
            if spins % 1024 == 0 {
                std::thread::yield_now();
            }
        }
        self.0.store(turn + 1, Ordering::Release);
    }
}

/// What is known of a pool's cores.
#[derive(Debug)]
pub struct Distance {
    given: Option<Cores>,
    seen: Option<(Instant, Cores)>,
}

impl Distance {
    /// None: to be measured.
    pub fn new(given: Option<Cores>) -> Self {
        Self { given, seen: None }
    }

    /// Takes some ten microseconds when it was not asked for a while.
    pub fn of(&mut self, pool: &Pool) -> Result<Cores> {
        match (self.given, self.seen) {
            (Some(given), _) => Ok(given),
            (None, Some((when, cores))) if when.elapsed() < GOOD_FOR => Ok(cores),
            _ => {
                let cores = measure(pool)?;
                self.seen = Some((Instant::now(), cores));
                Ok(cores)
            }
        }
    }
}

/// Far: lane 0 is from every other one.
fn measure(pool: &Pool) -> Result<Cores> {
    let lanes = pool.num_lanes();
    if lanes == 1 || lanes > MOST_LANES {
        return Ok(Cores::Near);
    }
    let balls: Vec<_> = (1..lanes).map(|_| Ball::default()).collect();
    let nearest = Mutex::new(Duration::MAX);
    pool.run(&|lane| match lane.id {
        0 => {
            let times = balls.iter().map(|ball| ball.serve(ROUNDS, TRIPS));
            *nearest.lock().unwrap_or_else(PoisonError::into_inner) = times.min().unwrap_or(Duration::MAX);
        }
        id => balls[id - 1].give_back(ROUNDS, TRIPS),
    })?;
    let nearest = nearest.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(if nearest >= FAR { Cores::Far } else { Cores::Near })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ball_comes_back_to_its_first_place() {
        let ball = Ball::default();
        std::thread::scope(|scope| {
            scope.spawn(|| ball.give_back(3, 5));
            assert!(ball.serve(3, 5) > Duration::ZERO);
        });
        // The last one to touch it is the thread that gave it back.
        assert_eq!(ball.0.load(Ordering::Acquire), 2 * 3 * 5);
    }

    #[test]
    fn what_was_seen_holds_for_a_while() {
        let pool = Pool::new(2);
        let mut distance = Distance::new(None);
        let first = distance.of(&pool).unwrap();
        let seen = distance.seen.expect("it was measured");
        assert_eq!((distance.of(&pool).unwrap(), distance.seen), (first, Some(seen)));
        distance.seen = seen.0.checked_sub(2 * GOOD_FOR).map(|when| (when, first));
        distance.of(&pool).unwrap();
        assert!(distance.seen.expect("it was measured again").0 >= seen.0);
    }

    #[test]
    fn what_is_given_is_not_measured() {
        for cores in [Cores::Near, Cores::Far] {
            let mut distance = Distance::new(Some(cores));
            assert_eq!((distance.of(&Pool::new(2)).unwrap(), distance.seen), (cores, None));
        }
    }

    #[test]
    fn a_lane_alone_and_many_lanes_are_near() {
        for lanes in [1, MOST_LANES + 1] {
            assert_eq!(Distance::new(None).of(&Pool::new(lanes)).unwrap(), Cores::Near);
        }
    }
}
