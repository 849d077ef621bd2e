//! The events that make a message, whatever transports them.

use ferrule_engine::Event;
use ferrule_engine::metrics::RequestMetrics;
use serde::Serialize;

use super::reply::{Block, End, Message, Reply, Usage};
use crate::serve::body::Framer;
use crate::serve::error::ServeError;
use crate::serve::timing::Timing;
use crate::serve::turns::Ending;

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamEvent<'a> {
    MessageStart { message: Message<'a> },
    Ping,
    ContentBlockStart { index: usize, content_block: Block<'a> },
    ContentBlockDelta { index: usize, delta: BlockDelta<'a> },
    ContentBlockStop { index: usize },
    MessageDelta { delta: End<'a>, usage: Usage, timing: Timing },
    MessageStop,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta<'a> {
    TextDelta { text: &'a str },
}

/// How events are written.
pub trait Wire: Send + Unpin + 'static {
    fn event(&self, event: &StreamEvent<'_>, out: &mut Vec<u8>);

    /// The last event of an answer that cost this.
    fn last(&self, event: &StreamEvent<'_>, metrics: &RequestMetrics, out: &mut Vec<u8>);

    fn error(&self, error: &ServeError, out: &mut Vec<u8>);
}

/// Writes one message.
pub struct MessageFramer<W> {
    reply: Reply,
    num_prompt_tokens: usize,
    wire: W,
    /// The text's block has begun.
    in_block: bool,
    ending: Option<Ending>,
}

impl<W: Wire> MessageFramer<W> {
    pub fn new(reply: Reply, num_prompt_tokens: usize, wire: W) -> Self {
        Self { reply, num_prompt_tokens, wire, in_block: false, ending: None }
    }

    fn text(&mut self, text: &str, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.in_block, true) {
            let content_block = Block::Text { text: "" };
            self.wire.event(&StreamEvent::ContentBlockStart { index: 0, content_block }, out);
        }
        let delta = BlockDelta::TextDelta { text };
        self.wire.event(&StreamEvent::ContentBlockDelta { index: 0, delta }, out);
    }
}

impl<W: Wire> Framer for MessageFramer<W> {
    fn open(&mut self, out: &mut Vec<u8>) {
        let message = self.reply.message(End::default(), Usage::of_prompt(self.num_prompt_tokens));
        self.wire.event(&StreamEvent::MessageStart { message }, out);
        self.wire.event(&StreamEvent::Ping, out);
    }

    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        if let Event::Delta(delta) = event {
            if !delta.text.is_empty() {
                self.text(&delta.text, out);
            }
            self.ending = Ending::of_delta(&delta);
        }
    }

    fn done(&mut self, _: usize, metrics: &RequestMetrics, out: &mut Vec<u8>) {
        if self.in_block {
            self.wire.event(&StreamEvent::ContentBlockStop { index: 0 }, out);
        }
        let ending = self.ending.as_ref().expect("an answer's last delta has its finish reason");
        let (delta, usage, timing) = (self.reply.end(ending, metrics), Usage::from(metrics), Timing::from(metrics));
        self.wire.event(&StreamEvent::MessageDelta { delta, usage, timing }, out);
        self.wire.last(&StreamEvent::MessageStop, metrics, out);
    }

    fn close(&mut self, _: &mut Vec<u8>) {}

    fn error(&mut self, error: &ServeError, out: &mut Vec<u8>) {
        self.wire.error(error, out);
    }
}
