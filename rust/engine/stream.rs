//! The events of one request, pulled by its caller, or its whole answer.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::handle::EngineHandle;
use crate::ids::{RequestId, TokenId};
use crate::output::{Collector, Event, GenerateOutput};

/// Events of one request, in order, ending after `Done` or `Error`. Dropping it cancels the request;
/// while it lives, so does the engine.
pub struct EventStream {
    engine: EngineHandle,
    id: RequestId,
    prompt_token_ids: Vec<TokenId>,
    events: Receiver<Event>,
    ended: bool,
}

impl EventStream {
    pub(crate) fn new(
        engine: EngineHandle,
        id: RequestId,
        prompt_token_ids: Vec<TokenId>,
        events: Receiver<Event>,
    ) -> Self {
        Self { engine, id, prompt_token_ids, events, ended: false }
    }

    pub fn request_id(&self) -> RequestId {
        self.id
    }

    pub fn prompt_token_ids(&self) -> &[TokenId] {
        &self.prompt_token_ids
    }

    /// Waits up to `timeout` for the next event: `Ok(None)` at the end, `Err(())` when time ran out.
    #[expect(clippy::result_unit_err, reason = "there is one way to fail, and nothing to say about it")]
    pub fn next_timeout(&mut self, timeout: Duration) -> std::result::Result<Option<Event>, ()> {
        if self.ended {
            return Ok(None);
        }
        match self.events.recv_timeout(timeout) {
            Ok(event) => Ok(Some(self.pass_on(event))),
            Err(RecvTimeoutError::Timeout) => Err(()),
            Err(RecvTimeoutError::Disconnected) => Ok(Some(self.pass_on(engine_gone()))),
        }
    }

    /// Waits for the whole answer.
    pub fn collect_output(mut self) -> Result<GenerateOutput> {
        let mut collector = Collector::new(std::mem::take(&mut self.prompt_token_ids));
        self.find_map(|event| collector.push(event)).expect("a stream ends with Done or Error")
    }

    fn pass_on(&mut self, event: Event) -> Event {
        self.ended = matches!(event, Event::Done(_) | Event::Error(_));
        event
    }
}

/// A whole answer that is under way. Who waits for it is woken once, not for every token: that would take a core from the
/// engine's lanes. Dropping it cancels the request; while it lives, so does the engine.
pub struct PendingOutput {
    engine: EngineHandle,
    id: RequestId,
    output: Receiver<Result<GenerateOutput>>,
    ended: bool,
}

impl PendingOutput {
    pub(crate) fn new(engine: EngineHandle, id: RequestId, output: Receiver<Result<GenerateOutput>>) -> Self {
        Self { engine, id, output, ended: false }
    }

    pub fn wait(mut self) -> Result<GenerateOutput> {
        self.ended = true;
        self.output.recv().unwrap_or_else(|_| Err(stopped()))
    }

    /// Waits up to `timeout`. None: it is not complete. It is told once.
    pub fn wait_timeout(&mut self, timeout: Duration) -> Option<Result<GenerateOutput>> {
        let output = match self.output.recv_timeout(timeout) {
            Ok(output) => output,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => Err(stopped()),
        };
        self.ended = true;
        Some(output)
    }
}

impl Drop for PendingOutput {
    fn drop(&mut self) {
        if !self.ended {
            self.engine.cancel(self.id);
        }
    }
}

/// The engine dropped the sink without a last word.
fn engine_gone() -> Event {
    Event::Error(stopped())
}

fn stopped() -> Error {
    Error::Internal("the engine stopped before the answer was complete".into())
}

impl Iterator for EventStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        match self.ended {
            true => None,
            false => {
                let event = self.events.recv().unwrap_or_else(|_| engine_gone());
                Some(self.pass_on(event))
            }
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if !self.ended {
            self.engine.cancel(self.id);
        }
    }
}
