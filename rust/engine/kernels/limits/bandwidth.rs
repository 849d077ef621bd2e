//! How fast memory can be read: the limit of decoding.

use std::hint::black_box;
use std::time::Duration;

use super::together::rate;
use crate::config::Isa;
use crate::kernels::Kernels;
use crate::quant::Region;

/// Far more than caches hold, without filling a small machine: even twice as much as an L3 of 32 MB is half read from there.
const TOTAL_BYTES: usize = 1 << 30;
const MAX_BYTES_PER_THREAD: usize = 256 << 20;
/// A call of a worker: short beside a round.
const STRETCH: usize = 8 << 20;
const TIME: Duration = Duration::from_millis(40);

/// Streams that are read side by side: prefetchers follow several, and one alone leaves part of the memory's speed
/// unused on some cores (Zen 3: 33 GB/s where four reach 42).
pub const STREAMS: usize = 4;
/// A step of a stream: four cache lines.
pub const STEP: usize = 256;

/// Bytes per second that `threads` threads read together from memory, each its own.
pub fn read_bandwidth(kernels: Kernels, threads: usize) -> f64 {
    let bytes = (TOTAL_BYTES / threads).min(MAX_BYTES_PER_THREAD);
    read_repeatedly(kernels, threads, bytes)
}

/// The same from what each thread reads again and again: a cache, if `bytes` fit there.
pub fn read_repeatedly(kernels: Kernels, threads: usize, bytes: usize) -> f64 {
    rate(threads, TIME, || {
        let memory = Memory::new(bytes);
        let mut next = 0;
        move || {
            let stretch = memory.words(next, STRETCH);
            next = if next + STRETCH < memory.len { next + STRETCH } else { 0 };
            black_box(read(kernels, stretch));
            size_of_val(stretch) as u64
        }
    })
}

/// Written memory in huge pages: pages that were never written would all be the same page of zeros.
struct Memory {
    region: Region,
    len: usize,
}

impl Memory {
    /// `bytes`, rounded down to whole steps of all streams.
    fn new(bytes: usize) -> Self {
        let len = bytes / (STREAMS * STEP) * (STREAMS * STEP);
        let region = Region::zeroed(len).expect("memory to measure with");
        // SAFETY: the region is ours and `len` bytes long.
        unsafe { region.as_ptr().write_bytes(1, len) };
        Self { region, len }
    }

    /// Up to `len` bytes from `start` on.
    fn words(&self, start: usize, len: usize) -> &[u64] {
        let len = len.min(self.len - start);
        // SAFETY: inside the region, whose start is aligned to cache lines, as are `start` and `len`.
        unsafe { std::slice::from_raw_parts(self.region.as_ptr().add(start).cast(), len / 8) }
    }
}

/// The exclusive or of all words, whose number is a multiple of a step of all streams.
fn read(kernels: Kernels, words: &[u64]) -> u64 {
    match kernels.isa() {
        Isa::Scalar => read_portable(words),
        // SAFETY: `Kernels` of this tier exist only on machines that have it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => unsafe { super::x86::read(words) },
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => read_portable(words),
    }
}

fn read_portable(words: &[u64]) -> u64 {
    let mut sums = [0u64; STEP / 8];
    let stream = words.len() / STREAMS;
    for at in (0..stream).step_by(STEP / 8) {
        for s in 0..STREAMS {
            let step = &words[s * stream + at..][..STEP / 8];
            sums.iter_mut().zip(step).for_each(|(sum, word)| *sum ^= word);
        }
    }
    sums.iter().fold(0, |all, sum| all ^ sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_once() {
        let memory = Memory::new(64 * STREAMS * STEP + 100);
        assert_eq!(memory.len, 64 * STREAMS * STEP);
        let words: Vec<u64> = (0..memory.len as u64 / 8).map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect();
        // SAFETY: `words` has as many bytes as the region.
        unsafe { memory.region.as_ptr().copy_from(words.as_ptr().cast(), memory.len) };
        let expected = words.iter().fold(0, |all, word| all ^ word);
        assert_eq!(read_portable(memory.words(0, memory.len)), expected);
        assert_eq!(read(Kernels::new(None).unwrap(), memory.words(0, memory.len)), expected);
    }
}
