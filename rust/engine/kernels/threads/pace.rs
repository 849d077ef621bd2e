//! How fast lanes work, learned from job to job.
//!
//! Cores are not equally fast: some are meant to be slow, others share their time or their memory with somebody. Where every
//! lane has as much to do, all wait for the slowest; so each gets a part in proportion to how fast it was of late.

use std::ops::Range;
use std::time::Duration;

/// How far parts follow what a single job says: a lane that lost its core for a moment is as fast as before.
const GAIN: f64 = 1.0 / 16.0;

/// A lane has at least this share of an even part: else nothing would be learned of it.
const LEAST: f64 = 1.0 / 8.0;

/// Cuts are numbers of 2^-32, so that even ones cut as whole numbers do.
const CUT_BITS: u32 = 32;

/// The parts of a kind of jobs that lanes have.
#[derive(Debug, Clone)]
pub struct Pace {
    /// (num_lanes,); they sum to 1.
    parts: Vec<f64>,
    /// (num_lanes + 1,) the parts' begins and ends.
    cuts: Vec<u64>,
}

impl Pace {
    /// As much for each lane.
    pub fn even(num_lanes: usize) -> Self {
        let cut = |lane: usize| ((lane as u64) << CUT_BITS).div_ceil(num_lanes as u64);
        Self { parts: vec![1.0 / num_lanes as f64; num_lanes], cuts: (0..=num_lanes).map(cut).collect() }
    }

    pub(super) fn cuts(&self) -> &[u64] {
        &self.cuts
    }

    /// Takes note of the time that each lane worked in a job with these parts, waiting left out.
    pub(super) fn learn(&mut self, worked: impl Fn(usize) -> Duration) {
        let speeds = self.parts.iter().enumerate().map(|(lane, part)| part / worked(lane).as_secs_f64().max(1e-9));
        let speeds: Vec<_> = speeds.collect();
        let (all, least) = (speeds.iter().sum::<f64>(), LEAST / speeds.len() as f64);
        for (part, speed) in self.parts.iter_mut().zip(speeds) {
            *part = (*part + GAIN * (speed / all - *part)).max(least);
        }
        let sum: f64 = self.parts.iter().sum();
        let mut end = 0.0;
        for (part, cut) in self.parts.iter_mut().zip(&mut self.cuts[1..]) {
            *part /= sum;
            end += *part;
            *cut = (end.min(1.0) * (1u64 << CUT_BITS) as f64).round() as u64;
        }
        *self.cuts.last_mut().expect("at least one cut") = 1 << CUT_BITS;
    }
}

/// A lane's share of `n` items: contiguous, the same for the same `n`.
pub(super) fn share(cuts: &[u64], lane: usize, n: usize) -> Range<usize> {
    let at = |cut: u64| ((u128::from(cut) * n as u128) >> CUT_BITS) as usize;
    at(cuts[lane])..at(cuts[lane + 1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One job of lanes of such speeds; each needs `fixed` besides, whatever it has to do.
    fn work(pace: &mut Pace, speeds: &[f64], fixed: f64) -> Vec<f64> {
        let times: Vec<_> = pace.parts.iter().zip(speeds).map(|(part, speed)| fixed + part / speed).collect();
        pace.learn(|lane| Duration::from_secs_f64(times[lane]));
        times
    }

    fn spread(times: &[f64]) -> f64 {
        times.iter().copied().fold(0.0, f64::max) / times.iter().copied().fold(f64::MAX, f64::min)
    }

    proptest! {
        #[test]
        fn even_shares_are_those_of_whole_numbers(num_lanes in 1usize..200, n in 0usize..300_000) {
            let pace = Pace::even(num_lanes);
            for lane in 0..num_lanes {
                prop_assert_eq!(share(pace.cuts(), lane, n), lane * n / num_lanes..(lane + 1) * n / num_lanes);
            }
        }

        #[test]
        fn lanes_come_to_take_as_long(speeds in prop::collection::vec(0.3f64..1.0, 1..9), fixed in 0.0f64..0.05) {
            let mut pace = Pace::even(speeds.len());
            for _ in 0..400 {
                work(&mut pace, &speeds, fixed);
            }
            let times = work(&mut pace, &speeds, fixed);
            prop_assert!(spread(&times) < 1.01, "{:?}", times);
        }

        #[test]
        fn shares_cover_all_whatever_was_learned(
            jobs in prop::collection::vec(prop::collection::vec(0u64..1_000_000, 3), 0..60),
            n in 0usize..2000,
        ) {
            let mut pace = Pace::even(3);
            for job in &jobs {
                pace.learn(|lane| Duration::from_nanos(job[lane]));
            }
            let mut next = 0;
            for lane in 0..3 {
                let share = share(pace.cuts(), lane, n);
                prop_assert_eq!(share.start, next);
                next = share.end;
            }
            prop_assert_eq!(next, n);
            prop_assert!(pace.parts.iter().all(|&part| part >= LEAST / 3.0 / (1.0 + LEAST)), "{:?}", pace.parts);
        }
    }

    #[test]
    fn a_moment_without_its_core_costs_a_lane_little() {
        let mut pace = Pace::even(2);
        work(&mut pace, &[1.0, 0.01], 0.0);
        assert!(spread(&work(&mut pace, &[1.0, 1.0], 0.0)) < 1.15);
    }
}
