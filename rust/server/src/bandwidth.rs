//! How fast memory can be read: the limit of decoding.

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Far more than caches hold, without filling a small machine.
const TOTAL_BYTES: usize = 1 << 30;
const MAX_BYTES_PER_THREAD: usize = 128 << 20;

/// Bytes per second that `threads` threads read together, over about `time`.
pub fn read_bandwidth(threads: usize, time: Duration) -> f64 {
    let words = (TOTAL_BYTES / threads).min(MAX_BYTES_PER_THREAD) / 8;
    let barrier = Barrier::new(threads);
    let rates: Vec<f64> = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(|| read(words, time, &barrier))).collect();
        readers.into_iter().map(|reader| reader.join().unwrap_or(0.0)).collect()
    });
    rates.iter().sum()
}

fn read(words: usize, time: Duration, barrier: &Barrier) -> f64 {
    // Ones, because pages that were never written all map to the same page of zeros.
    let memory = vec![1u64; words];
    barrier.wait();
    let start = Instant::now();
    let mut passes = 0;
    while start.elapsed() < time {
        black_box(sum(black_box(&memory)));
        passes += 1;
    }
    (passes * words * 8) as f64 / start.elapsed().as_secs_f64()
}

/// Independent sums, so that loads and not additions are what is waited for.
fn sum(memory: &[u64]) -> u64 {
    let mut sums = [0u64; 16];
    for chunk in memory.chunks_exact(16) {
        for (sum, word) in sums.iter_mut().zip(chunk) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read() {
        let memory: Vec<u64> = (0..1600).collect();
        assert_eq!(sum(&memory), 1599 * 800);
    }
}
