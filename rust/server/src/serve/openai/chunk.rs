//! Chunks of streams. All chunks of a stream begin alike, so that beginning is written once.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::usage::Usage;
use crate::serve::body::write_json;
use crate::serve::error::ServeError;
use crate::serve::models::Lease;
use crate::serve::timing::Timing;
use crate::serve::visit::Visit;

/// What identifies an answer.
#[derive(Debug, Clone)]
pub struct Stamp {
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub fingerprint: String,
}

impl Stamp {
    pub fn new(prefix: &str, visit: &Visit, model: &Lease) -> Self {
        Self {
            id: format!("{prefix}-{}", visit.id.trim_start_matches("req-")),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: model.served.name.clone(),
            fingerprint: model.fingerprint.clone(),
        }
    }
}

/// Writes the chunks of one stream.
#[derive(Debug)]
pub struct ChunkWriter {
    /// `data: {"id":…` up to the choices.
    head: Vec<u8>,
    include_usage: bool,
    /// A choice's last chunk. It waits, because the stream's last one of these has the timing.
    held: Option<Last>,
}

#[derive(Debug)]
struct Last {
    index: usize,
    /// `"delta":{}` or `"text":""`
    content: Vec<u8>,
    reason: &'static str,
    stop_reason: serde_json::Value,
}

impl ChunkWriter {
    pub fn new(stamp: &Stamp, object: &str, include_usage: bool) -> Self {
        let head = json!({
            "id": stamp.id, "object": object, "created": stamp.created, "model": stamp.model,
            "system_fingerprint": stamp.fingerprint,
        });
        let head = format!("data: {head}");
        Self { head: head.trim_end_matches('}').into(), include_usage, held: None }
    }

    /// A choice's next piece; `content` has its `"delta":…` or `"text":…`, `logprobs` is JSON.
    pub fn piece(&self, out: &mut Vec<u8>, index: usize, content: impl FnOnce(&mut Vec<u8>), logprobs: Option<&[u8]>) {
        self.begin(out, index);
        content(out);
        out.extend_from_slice(b",\"logprobs\":");
        out.extend_from_slice(logprobs.unwrap_or(b"null"));
        out.extend_from_slice(b",\"finish_reason\":null}]");
        self.end(out, None);
    }

    /// A choice's end.
    pub fn last(
        &mut self,
        out: &mut Vec<u8>,
        index: usize,
        content: &[u8],
        reason: &'static str,
        stop_reason: serde_json::Value,
    ) {
        self.flush(out, None);
        self.held = Some(Last { index, content: content.to_vec(), reason, stop_reason });
    }

    /// Writes the end that waits.
    pub fn flush(&mut self, out: &mut Vec<u8>, timing: Option<&Timing>) {
        let Some(last) = self.held.take() else { return };
        self.begin(out, last.index);
        out.extend_from_slice(&last.content);
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":");
        write_json(out, last.reason);
        out.extend_from_slice(b",\"stop_reason\":");
        write_json(out, &last.stop_reason);
        out.extend_from_slice(b"}]");
        self.end(out, timing);
    }

    /// The stream's end.
    pub fn close(&mut self, out: &mut Vec<u8>, usage: &Usage) {
        if self.include_usage {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b",\"choices\":[],\"usage\":");
            write_json(out, usage);
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn begin(&self, out: &mut Vec<u8>, index: usize) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b",\"choices\":[{\"index\":");
        write_json(out, &index);
        out.push(b',');
    }

    fn end(&self, out: &mut Vec<u8>, timing: Option<&Timing>) {
        if self.include_usage {
            out.extend_from_slice(b",\"usage\":null");
        }
        if let Some(timing) = timing {
            out.extend_from_slice(b",\"timing\":");
            write_json(out, timing);
        }
        out.extend_from_slice(b"}\n\n");
    }
}

/// A stream that cannot go on.
pub fn error(out: &mut Vec<u8>, error: &ServeError) {
    out.extend_from_slice(b"data: ");
    write_json(out, &super::error_json(error));
    out.extend_from_slice(b"\n\n");
}
