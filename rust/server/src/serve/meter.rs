//! What must happen for every request to an engine, however it ends: figures, and giving back what it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ferrule_engine::metrics::RequestMetrics;
use ferrule_engine::output::Delta;
use ferrule_engine::{Error, Event, FinishReason};

use super::auth::Reservation;
use super::metrics::End;
use super::models::Lease;
use super::record::Record;
use super::trace::{Stages, Trace};
use super::visit::Visit;

/// Lives in the request's sink, so on the engine's thread: it sees tokens when they are made, not when a client
/// reads them, and it is dropped when the engine has let go of the request.
pub struct Meter {
    holds: Holds,
    record: Arc<Record>,
    arrived: Instant,
    prompt_len: usize,
    num_generated: usize,
    /// The last token's time, by choice.
    last_token: Vec<Option<Instant>>,
    /// The engine took the request; no event comes before that, but nothing may come after it either.
    taken: Arc<AtomicBool>,
    ended: bool,
    /// None: nobody traces.
    trace: Option<(Arc<Trace>, Stages)>,
}

/// What a request holds until its end.
pub struct Holds {
    pub lease: Lease,
    pub reservation: Option<Reservation>,
}

impl Meter {
    pub fn new(holds: Holds, visit: &Visit, prompt_len: usize, n: usize, taken: Arc<AtomicBool>) -> Self {
        let (record, arrived) = (visit.record.clone(), visit.started);
        let last_token = vec![None; n];
        record.update().num_open += 1;
        let trace = visit.trace.clone().map(|trace| (trace, Stages::begin()));
        Self { holds, record, arrived, prompt_len, num_generated: 0, last_token, taken, ended: false, trace }
    }

    pub fn see(&mut self, event: &Event) {
        match event {
            Event::Delta(delta) => self.token(delta),
            Event::Done(metrics) => self.done(metrics),
            // By its caller, or because the server stops.
            Event::Error(Error::Cancelled(_)) => self.end(End::Abort),
            Event::Error(_) => self.end(End::Error),
            Event::Embedding(_) => self.end(End::Stop),
            Event::PromptLogprobs(_) => {}
        }
    }

    fn token(&mut self, delta: &Delta) {
        // An answer of no tokens has one delta, with its finish reason alone.
        if !delta.token_ids.is_empty() {
            self.time_token(delta.index);
        }
        if let Some(reason) = delta.finish_reason {
            let end = match reason {
                FinishReason::Stop => End::Stop,
                FinishReason::Length => End::Length,
            };
            self.end(end);
        }
    }

    fn time_token(&mut self, choice: usize) {
        let now = Instant::now();
        let is_first = self.last_token.iter().all(Option::is_none);
        let gap = self.last_token[choice].replace(now).map(|last| now - last);
        self.num_generated += 1;
        if let Some((_, stages)) = &mut self.trace {
            stages.token(now);
        }
        let mut cost = self.record.update();
        cost.generated_tokens += 1;
        cost.last_token = Some(now - self.arrived);
        match is_first {
            true => {
                let ttft = now - self.arrived;
                cost.time_to_first_token.get_or_insert(ttft);
                self.holds.lease.metrics.first_token(ttft);
            }
            false => self.holds.lease.metrics.next_token(gap),
        }
    }

    fn done(&mut self, metrics: &RequestMetrics) {
        self.ended = true;
        self.holds.lease.metrics.done(metrics, self.arrived.elapsed());
        if let Some((_, stages)) = &mut self.trace {
            stages.done(metrics);
        }
        let mut cost = self.record.update();
        cost.cached_tokens += metrics.num_cached_tokens;
        cost.queue_time.get_or_insert(metrics.queue_time);
    }

    fn end(&mut self, end: End) {
        self.ended |= matches!(end, End::Abort | End::Error);
        self.holds.lease.metrics.end(end);
        self.record.update().end = Some(end.as_str());
        if let Some((_, stages)) = &mut self.trace {
            stages.end = end.as_str();
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let was_taken = self.ended || self.num_generated > 0 || self.taken.load(Ordering::Acquire);
        if !self.ended {
            self.end(if was_taken { End::Abort } else { End::Error });
        }
        if let Some(reservation) = self.holds.reservation.take() {
            reservation.settle(was_taken.then_some((self.prompt_len + self.num_generated) as u64));
        }
        if let Some((trace, stages)) = &self.trace {
            trace.request(&self.holds.lease.served.name, self.prompt_len, self.num_generated, stages);
        }
        let mut cost = self.record.update();
        cost.num_open -= 1;
        cost.ended = Some(self.arrived.elapsed());
    }
}
