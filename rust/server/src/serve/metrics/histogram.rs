//! Counts by size, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// The sum is kept in millionths.
const SUM_UNIT: f64 = 1e6;

#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds of the buckets, ascending; one more bucket has what is larger.
    bounds: &'static [f64],
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// What a histogram has counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// (upper bound, how many are at most that)
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    pub fn observe(&self, value: f64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value.max(0.0) * SUM_UNIT) as u64, Ordering::Relaxed);
    }

    pub fn counted(&self) -> Counted {
        let mut count = 0;
        let mut upto = |bucket: &AtomicU64| {
            count += bucket.load(Ordering::Relaxed);
            count
        };
        let mut buckets = Vec::with_capacity(self.counts.len());
        for (bound, bucket) in self.bounds.iter().chain(&[f64::INFINITY]).zip(&self.counts) {
            buckets.push((*bound, upto(bucket)));
        }
        Counted { buckets, count, sum: self.sum.load(Ordering::Relaxed) as f64 / SUM_UNIT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_belong_to_the_bucket_below() {
        let histogram = Histogram::new(&[1.0, 2.0]);
        for value in [0.5, 1.0, 1.5, 2.0, 3.0] {
            histogram.observe(value);
        }
        let counted = histogram.counted();
        assert_eq!(counted.buckets, [(1.0, 2), (2.0, 4), (f64::INFINITY, 5)]);
        assert_eq!((counted.count, counted.sum), (5, 8.0));
    }
}
