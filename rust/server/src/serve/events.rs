//! The way of one request's events from the engine's thread to its connection.
//!
//! The engine must never wait for a client, and a slow client must not cost memory per token: what waits is merged, so
//! that at most one delta per choice does. A client that reads slower than the engine writes gets fewer, longer pieces,
//! and a receiver that waits for a stream's tick, or for the whole answer, is not woken for each.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use ferrule_engine::output::Delta;
use ferrule_engine::{Error, Event};

/// The engine's end.
pub struct EventSender(Arc<Shared>);

/// The connection's end. Dropping it makes the sender answer `Break`.
pub struct EventReceiver(Arc<Shared>);

#[derive(Default)]
struct Shared(Mutex<State>);

/// What a receiver waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    Any,
    /// The last event; it comes with all before it.
    End,
}

#[derive(Default)]
struct State {
    pending: Vec<Event>,
    waker: Option<(Waker, Until)>,
    /// `Done` or `Error` was sent.
    ended: bool,
    /// Nobody listens.
    gone: bool,
}

pub fn channel() -> (EventSender, EventReceiver) {
    let shared = Arc::<Shared>::default();
    (EventSender(shared.clone()), EventReceiver(shared))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete at once.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, event: Event) {
        self.ended = matches!(event, Event::Done(_) | Event::Error(_));
        match event {
            Event::Delta(delta) => match self.unfinished(delta.index) {
                Some(last) => last.extend(delta),
                None => self.pending.push(Event::Delta(delta)),
            },
            event => self.pending.push(event),
        }
    }

    fn has(&self, until: Until) -> bool {
        match until {
            Until::Any => !self.pending.is_empty(),
            Until::End => self.ended && !self.pending.is_empty(),
        }
    }

    /// The receiver, if it waits for what there is now.
    fn take_waker(&mut self) -> Option<Waker> {
        let (_, until) = self.waker.as_ref()?;
        self.has(*until).then(|| self.waker.take())?.map(|(waker, _)| waker)
    }

    /// The delta of choice `index` that waits. Choices do not depend on each other's order.
    fn unfinished(&mut self, index: usize) -> Option<&mut Delta> {
        self.pending.iter_mut().rev().find_map(|event| match event {
            Event::Delta(delta) if delta.index == index => Some(delta),
            _ => None,
        })
    }
}

impl EventSender {
    pub fn send(&self, event: Event) -> ControlFlow<()> {
        let mut state = self.0.lock();
        if state.gone {
            return ControlFlow::Break(());
        }
        state.push(event);
        let waker = state.take_waker();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        ControlFlow::Continue(())
    }
}

impl Drop for EventSender {
    /// An engine that stopped without a last word must not leave its caller waiting.
    fn drop(&mut self) {
        if !self.0.lock().ended {
            let gone = Error::Internal("the engine stopped before the answer was complete".into());
            let _ = self.send(Event::Error(gone));
        }
    }
}

impl EventReceiver {
    /// Moves everything that waits to `events`, which is empty; pending if `until` is not there.
    pub fn poll_batch(&self, cx: &mut Context<'_>, until: Until, events: &mut Vec<Event>) -> Poll<()> {
        let mut state = self.0.lock();
        if !state.has(until) {
            state.waker = Some((cx.waker().clone(), until));
            return Poll::Pending;
        }
        std::mem::swap(&mut state.pending, events);
        Poll::Ready(())
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.gone = true;
        state.pending = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    fn delta(index: usize, text: &str) -> Event {
        Event::Delta(Delta { text: text.into(), ..Delta::new(index) })
    }

    fn received(receiver: &EventReceiver) -> Vec<String> {
        let mut events = Vec::new();
        let _ = receiver.poll_batch(&mut Context::from_waker(Waker::noop()), Until::Any, &mut events);
        let text = |event: &Event| match event {
            Event::Delta(delta) => format!("{}:{}", delta.index, delta.text),
            Event::Done(_) => "done".into(),
            Event::Error(error) => error.to_string(),
            _ => "other".into(),
        };
        events.iter().map(text).collect()
    }

    #[test]
    fn what_waits_is_merged_by_choice() {
        let (sender, receiver) = channel();
        for event in [delta(0, "a"), delta(1, "x"), delta(0, "b"), delta(1, "y"), Event::Done(Default::default())] {
            assert!(sender.send(event).is_continue());
        }
        assert_eq!(received(&receiver), ["0:ab", "1:xy", "done"]);
        assert!(received(&receiver).is_empty());
    }

    #[test]
    fn who_waits_for_the_end_is_woken_once() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(count.clone());
        let (sender, receiver) = channel();
        let poll = |until| {
            let mut events = Vec::new();
            let polled = receiver.poll_batch(&mut Context::from_waker(&waker), until, &mut events);
            polled.is_ready().then_some(events.len())
        };
        assert_eq!(poll(Until::End), None);
        for text in ["a", "b", "c"] {
            assert!(sender.send(delta(0, text)).is_continue());
        }
        assert_eq!((poll(Until::End), count.0.load(Ordering::Relaxed)), (None, 0));
        assert!(sender.send(Event::Done(Default::default())).is_continue());
        assert_eq!((poll(Until::End), count.0.load(Ordering::Relaxed)), (Some(2), 1));
    }

    #[test]
    fn a_sender_that_vanishes_leaves_an_error() {
        let (sender, receiver) = channel();
        assert!(sender.send(delta(0, "a")).is_continue());
        drop(sender);
        let received = received(&receiver);
        assert_eq!(received[0], "0:a");
        assert!(received[1].contains("the engine stopped"), "{received:?}");
    }

    #[test]
    fn a_receiver_that_vanishes_is_the_cancellation() {
        let (sender, receiver) = channel();
        drop(receiver);
        assert!(sender.send(delta(0, "a")).is_break());
    }
}
