//! Anthropic's own wire: server-sent events that are named.

use ferrule_engine::metrics::RequestMetrics;
use serde::Serialize;

use super::error_json;
use super::stream::{StreamEvent, Wire};
use crate::serve::body::write_json;
use crate::serve::error::ServeError;

pub struct Sse {
    pub request_id: String,
}

impl Wire for Sse {
    fn event(&self, event: &StreamEvent<'_>, out: &mut Vec<u8>) {
        write_event(out, name(event), event);
    }

    fn last(&self, event: &StreamEvent<'_>, _: &RequestMetrics, out: &mut Vec<u8>) {
        self.event(event, out);
    }

    fn error(&self, error: &ServeError, out: &mut Vec<u8>) {
        write_event(out, "error", &error_json(error, &self.request_id));
    }
}

/// The same as its `type`.
fn name(event: &StreamEvent<'_>) -> &'static str {
    match event {
        StreamEvent::MessageStart { .. } => "message_start",
        StreamEvent::Ping => "ping",
        StreamEvent::ContentBlockStart { .. } => "content_block_start",
        StreamEvent::ContentBlockDelta { .. } => "content_block_delta",
        StreamEvent::ContentBlockStop { .. } => "content_block_stop",
        StreamEvent::MessageDelta { .. } => "message_delta",
        StreamEvent::MessageStop => "message_stop",
    }
}

fn write_event(out: &mut Vec<u8>, name: &str, data: &impl Serialize) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    write_json(out, data);
    out.extend_from_slice(b"\n\n");
}
