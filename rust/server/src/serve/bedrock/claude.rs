//! Bodies of Anthropic's models are those of Anthropic's dialect; their events come in chunks.

use ferrule_engine::metrics::RequestMetrics;
use serde::Serialize;

use super::event_stream::{write_chunk, write_exception};
use super::usage::InvocationMetrics;
use crate::serve::anthropic::{StreamEvent, Wire};
use crate::serve::error::ServeError;

pub struct Chunks;

#[derive(Debug, Serialize)]
struct Last<'a> {
    #[serde(flatten)]
    event: &'a StreamEvent<'a>,
    #[serde(rename = "amazon-bedrock-invocationMetrics")]
    metrics: InvocationMetrics,
}

impl Wire for Chunks {
    fn event(&self, event: &StreamEvent<'_>, out: &mut Vec<u8>) {
        // Bedrock has no pings.
        if !matches!(event, StreamEvent::Ping) {
            write_chunk(out, event);
        }
    }

    fn last(&self, event: &StreamEvent<'_>, metrics: &RequestMetrics, out: &mut Vec<u8>) {
        write_chunk(out, &Last { event, metrics: metrics.into() });
    }

    fn error(&self, error: &ServeError, out: &mut Vec<u8>) {
        write_exception(out, error);
    }
}
