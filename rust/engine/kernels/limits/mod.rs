//! What this machine can give: the ceilings that kernels are measured against.
//!
//! Every figure is the best of a few short rounds: a limit is what the machine gives when nobody disturbs it.

mod bandwidth;
mod caches;
mod compute;
mod ping_pong;
mod together;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::time::Duration;

pub use bandwidth::read_bandwidth;
pub use compute::{Arithmetic, peak};
pub use ping_pong::round_trip;

use super::Kernels;

/// What one thread reaches, and what all reach together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    pub one_thread: f64,
    pub all_threads: f64,
}

impl Rates {
    fn measure(threads: usize, rate: impl Fn(usize) -> f64) -> Self {
        let one_thread = rate(1);
        Self { one_thread, all_threads: if threads == 1 { one_thread } else { rate(threads) } }
    }
}

/// The machine's limits. Reading is in bytes per second, arithmetic in operations per second, of which a
/// multiplication and its addition are two.
#[derive(Debug, Clone)]
pub struct Limits {
    pub dram: Rates,
    /// Where the system tells the size of the cache.
    pub l3: Option<Rates>,
    pub l2: Option<Rates>,
    /// Where the tier has vector instructions for it.
    pub int8: Option<Rates>,
    /// Codes of four bits times int8: their products can be added in 16 bits before they are widened.
    pub int4: Option<Rates>,
    pub bf16: Option<Rates>,
    pub f32: Option<Rates>,
    /// From one core to another and back. None: there is one.
    pub round_trip: Option<Duration>,
}

impl Limits {
    /// Takes about two seconds.
    pub fn measure(kernels: Kernels, threads: usize) -> Self {
        let reads = |bytes: Option<usize>| {
            bytes.map(|bytes| Rates::measure(threads, |threads| bandwidth::read_repeatedly(kernels, threads, bytes)))
        };
        let peaks = |arithmetic| {
            peak(kernels, 1, arithmetic)?;
            Some(Rates::measure(threads, |threads| peak(kernels, threads, arithmetic).unwrap_or(0.0)))
        };
        Self {
            dram: Rates::measure(threads, |threads| read_bandwidth(kernels, threads)),
            l3: reads(caches::working_set_in_l3(threads)),
            l2: reads(caches::working_set_in_l2()),
            int8: peaks(Arithmetic::Int8),
            int4: peaks(Arithmetic::Int4),
            bf16: peaks(Arithmetic::Bf16),
            f32: peaks(Arithmetic::F32),
            round_trip: round_trip(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_positive_and_finite() {
        let kernels = Kernels::new(None).unwrap();
        let limits = Limits::measure(kernels, 1);
        let rates = [Some(limits.dram), limits.l3, limits.l2, limits.int8, limits.int4, limits.bf16, limits.f32];
        for rates in rates.into_iter().flatten() {
            assert!(rates.one_thread > 0.0 && rates.one_thread.is_finite(), "{rates:?}");
            assert_eq!(rates.one_thread, rates.all_threads);
        }
    }
}
