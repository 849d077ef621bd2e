//! Work of which each lane has a share, and helps with the others' when it is done with its own: cores are not equally fast,
//! least of all those of a virtual machine.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::barrier::OwnLine;

/// Numbered pieces of work, cut into a contiguous share for each lane. A lane takes its own from the first to the last, and
/// those of others from the last to the first: what it took before is next to what it takes, in one share as in the other.
#[derive(Debug, Default)]
pub struct Shares {
    /// (num_lanes + 1,)
    bounds: Vec<usize>,
    /// (num_lanes,) what is left of each: the first in the low half, the end in the high one.
    left: Vec<OwnLine<AtomicU64>>,
}

impl Shares {
    /// New shares: `cut` puts (num_lanes + 1,) bounds, in ascending order, into an empty vector.
    pub fn fill(&mut self, cut: impl FnOnce(&mut Vec<usize>)) {
        self.bounds.clear();
        cut(&mut self.bounds);
        let num_lanes = self.bounds.len() - 1;
        self.left.resize_with(num_lanes, OwnLine::default);
        (0..num_lanes).for_each(|lane| self.refill(lane));
    }

    /// The same share once more. All lanes that help have met since something was taken, and will before it is again.
    pub fn refill(&self, lane: usize) {
        self.left[lane].store(pack(self.bounds[lane]..self.bounds[lane + 1]), Ordering::Relaxed);
    }

    /// The next piece for a lane: of its own share, or if that is done and `helps`, of another one's.
    pub fn take(&self, lane: usize, helps: bool) -> Option<usize> {
        let others = (lane + 1..self.left.len()).chain(0..lane).filter(|_| helps);
        let first = || self.take_of(lane, |left| (left.start, left.start + 1..left.end));
        let last = |other| self.take_of(other, |left| (left.end - 1, left.start..left.end - 1));
        first().or_else(|| others.map(last).find_map(|taken| taken))
    }

    /// `choose` divides what is left, if that is something: into what is taken and what stays.
    fn take_of(&self, lane: usize, choose: impl Fn(Range<usize>) -> (usize, Range<usize>)) -> Option<usize> {
        let left = |packed| Some(unpack(packed)).filter(|left| !left.is_empty());
        let rest = |packed| left(packed).map(|left| pack(choose(left).1));
        let before = self.left[lane].fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok()?;
        Some(choose(unpack(before)).0)
    }
}

fn pack(left: Range<usize>) -> u64 {
    let half = |at: usize| u64::from(u32::try_from(at).expect("fewer than 2^32 pieces of work"));
    half(left.start) | half(left.end) << 32
}

fn unpack(left: u64) -> Range<usize> {
    left as u32 as usize..(left >> 32) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::kernels::threads::Pool;

    #[test]
    fn a_lane_helps_from_the_end() {
        let mut shares = Shares::default();
        shares.fill(|bounds| bounds.extend([0, 2, 5, 5]));
        let taken = |lane, helps| std::iter::from_fn(|| shares.take(lane, helps)).collect::<Vec<_>>();
        assert!(taken(2, false).is_empty());
        assert_eq!([shares.take(2, true), shares.take(2, true)], [Some(1), Some(0)]);
        assert!(taken(0, false).is_empty());
        assert_eq!([shares.take(0, true), shares.take(1, true)], [Some(4), Some(2)]);
        assert_eq!(taken(1, true), [3]);
        shares.refill(1);
        assert_eq!(taken(1, true), [2, 3, 4]);
    }

    proptest! {
        #[test]
        fn all_is_taken_once_by_lanes_that_run_at_once(
            sizes in prop::collection::vec(0usize..40, 2..5),
            alone in any::<bool>(),
        ) {
            let bounds: Vec<_> = (0..=sizes.len()).map(|lanes| sizes[..lanes].iter().sum()).collect();
            let mut shares = Shares::default();
            shares.fill(|own| own.extend(&bounds));
            let taken: Vec<_> = sizes.iter().map(|_| std::sync::Mutex::default()).collect();
            for _ in 0..3 {
                let pool = Pool::new(sizes.len());
                pool.run(&|lane| {
                    let mut mine: std::sync::MutexGuard<'_, Vec<usize>> = taken[lane.id].lock().unwrap();
                    mine.clear();
                    mine.extend(std::iter::from_fn(|| shares.take(lane.id, !alone)));
                    lane.barrier();
                    shares.refill(lane.id);
                }).unwrap();
                let all: Vec<_> = taken.iter().flat_map(|lane| lane.lock().unwrap().clone()).collect();
                prop_assert_eq!(all.len(), *bounds.last().unwrap());
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
                for (lane, taken) in taken.iter().enumerate().filter(|_| alone) {
                    prop_assert_eq!(&*taken.lock().unwrap(), &(bounds[lane]..bounds[lane + 1]).collect::<Vec<_>>());
                }
            }
        }
    }
}
