//! From "stop" to stopped: who is still answered, and who is told to go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::error::{Kind, ServeError};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The models that the server was started for are not all in memory yet; requests wait for theirs.
    Starting,
    Running,
    /// Nothing new is taken; what runs goes on.
    Draining,
    /// What runs is ended.
    Stopping,
}

#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    in_flight: AtomicUsize,
    /// `in_flight` fell to zero.
    idle: tokio::sync::Notify,
}

/// A request that is being answered.
#[derive(Debug)]
pub struct InFlight(Arc<Drain>);

impl Drain {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: watch::Sender::new(Phase::Starting),
            in_flight: AtomicUsize::new(0),
            idle: tokio::sync::Notify::new(),
        })
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until what runs is to be ended.
    pub async fn stopping(&self) {
        let mut phase = self.phase.subscribe();
        let stopping = phase.wait_for(|phase| *phase == Phase::Stopping).await;
        stopping.expect("the sender is this drain's");
    }

    pub fn advance(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Counts a request until the guard is dropped, or refuses it because the server is shutting down.
    pub fn enter(self: &Arc<Self>) -> Result<InFlight, ServeError> {
        // Counted first: whoever sees zero after the phase changed has seen everybody.
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let guard = InFlight(self.clone());
        match self.phase() {
            Phase::Starting | Phase::Running => Ok(guard),
            Phase::Draining | Phase::Stopping => Err(shutting_down()),
        }
    }

    pub fn num_in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// Waits until nothing is in flight.
    pub async fn wait_idle(&self) {
        loop {
            let notified = self.idle.notified();
            if self.num_in_flight() == 0 {
                return;
            }
            notified.await;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

pub fn shutting_down() -> ServeError {
    let retry = std::time::Duration::from_secs(5);
    ServeError::new(Kind::Unavailable, "the server is shutting down; try again elsewhere or later").retry_after(retry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_flight_is_waited_for_and_nothing_new_is_taken() {
        let drain = Drain::new();
        let first = drain.enter().unwrap();
        drain.advance(Phase::Draining);
        assert_eq!(drain.enter().unwrap_err().kind, Kind::Unavailable);
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.wait_idle().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(first);
        waiting.await.unwrap();
        assert_eq!(drain.num_in_flight(), 0);
    }
}
