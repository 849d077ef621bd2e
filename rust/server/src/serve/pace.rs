//! How often a stream is written to.
//!
//! A frame costs the server and its client a wake-up and a system call each, which a fast model's lanes wait for. So a
//! stream that was just written to waits for the next tick of a clock that all streams share: they are written together,
//! and one wake-up serves them all.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The clock: it ticks every `interval` from `start` on.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    start: Instant,
    interval: Duration,
}

impl Pace {
    /// An interval of zero: streams wait for nothing.
    pub fn new(interval: Duration) -> Self {
        Self { start: Instant::now(), interval }
    }

    /// The first tick after `now`. None: there are no ticks.
    fn next(&self, now: Instant) -> Option<Instant> {
        let since_tick = (now - self.start).as_nanos().checked_rem(self.interval.as_nanos())?;
        Some(now + self.interval - Duration::from_nanos(since_tick as u64))
    }
}

/// One stream's wait for the tick after its last frame.
pub struct Pause {
    pace: Pace,
    /// None: it was not written to yet.
    tick: Option<Pin<Box<Sleep>>>,
}

impl Pause {
    pub fn new(pace: Pace) -> Self {
        Self { pace, tick: None }
    }

    /// The stream is written to.
    pub fn begin(&mut self) {
        let Some(next) = self.pace.next(Instant::now()) else { return };
        match &mut self.tick {
            Some(tick) => tick.as_mut().reset(next),
            None => self.tick = Some(Box::pin(sleep_until(next))),
        }
    }

    /// Ready when the stream may be written to.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.tick {
            // One that has elapsed is kept for the next pause.
            Some(tick) if !tick.is_elapsed() => tick.as_mut().poll(cx),
            _ => Poll::Ready(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_between_two_ticks_gets_the_same_one() {
        let pace = Pace::new(Duration::from_millis(20));
        let at = |micros| pace.start + Duration::from_micros(micros);
        for (now, next) in [(0, 20_000), (1, 20_000), (19_999, 20_000), (20_000, 40_000), (1_234_567, 1_240_000)] {
            assert_eq!(pace.next(at(now)), Some(at(next)));
        }
    }

    #[tokio::test]
    async fn a_stream_waits_between_two_frames_and_not_before_the_first() {
        let is_ready = |pause: &mut Pause| pause.poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready();
        let mut pause = Pause::new(Pace::new(Duration::from_secs(3600)));
        assert!(is_ready(&mut pause));
        pause.begin();
        assert!(!is_ready(&mut pause));
        let mut unpaced = Pause::new(Pace::new(Duration::ZERO));
        unpaced.begin();
        assert!(is_ready(&mut unpaced));
    }
}
