//! Where the time of requests to models went, as OpenTelemetry's spans: a file of OTLP's JSON, one batch per line
//! (<https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/>), which collectors read.
//!
//! ```text
//! POST /v1/chat/completions           (server; child of the caller's span, if it sent a traceparent)
//!   generate                          one per request to an engine
//!     queue · prefill · decode
//! ```

mod otlp;
mod writer;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::http::HeaderMap;
use ferrule_engine::metrics::RequestMetrics;
use serde_json::json;

use self::otlp::{Kind, Span};
pub use self::writer::TraceFile;
use super::visit::{Visit, random_hex};

/// The trace that a visit belongs to.
#[derive(Debug)]
pub struct Trace {
    file: TraceFile,
    context: Context,
    /// Of the visit's own span.
    span_id: String,
    started: Instant,
    started_at: SystemTime,
}

/// What a caller says about its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Context {
    trace_id: String,
    parent_id: Option<String>,
}

/// When a request to an engine went from one stage to the next. None: it did not get there, or nobody knows.
#[derive(Debug)]
pub struct Stages {
    submitted: Instant,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    cached_tokens: usize,
    /// How the last choice ended.
    pub end: &'static str,
}

impl Trace {
    /// None: the caller does not want this request in its trace.
    pub fn begin(file: &TraceFile, headers: &HeaderMap) -> Option<Arc<Self>> {
        let traceparent = headers.get("traceparent").and_then(|value| value.to_str().ok());
        let context = match traceparent.and_then(parse) {
            Some((_, false)) => return None,
            Some((context, true)) => context,
            None => Context { trace_id: random_hex(), parent_id: None },
        };
        let (file, span_id) = (file.clone(), span_id());
        Some(Arc::new(Self { file, context, span_id, started: Instant::now(), started_at: SystemTime::now() }))
    }

    /// The visit has ended; only those that asked for a model are told.
    pub fn visit(&self, visit: &Visit, route: &str, status: u16) {
        let Some(model) = visit.record.cost().model else { return };
        let attributes = json!({
            "http.request.method": visit.method, "http.route": route, "url.path": visit.path,
            "http.response.status_code": status, "ferrule.request_id": visit.id, "gen_ai.request.model": model,
        });
        let name = format!("{} {route}", visit.method);
        let parent = self.context.parent_id.as_deref();
        let mut span = self.span(&self.span_id, parent, &name, self.started, Instant::now());
        (span.kind, span.attributes, span.is_error) = (Kind::Server, attributes, status >= 500);
        self.file.write(&[span]);
    }

    /// A request to an engine has ended.
    pub fn request(&self, model: &str, prompt_len: usize, num_generated: usize, stages: &Stages) {
        let (id, ended) = (span_id(), Instant::now());
        let mut request = self.span(&id, Some(&self.span_id), "generate", stages.submitted, ended);
        request.is_error = stages.end == "error";
        request.attributes = json!({
            "gen_ai.request.model": model, "gen_ai.usage.input_tokens": prompt_len,
            "gen_ai.usage.output_tokens": num_generated, "ferrule.cached_tokens": stages.cached_tokens,
            "ferrule.end": stages.end,
        });
        let stage = |(name, from, to): (&str, Instant, Instant)| self.span(&span_id(), Some(&id), name, from, to);
        let spans: Vec<_> = [request].into_iter().chain(stages.named(ended).into_iter().flatten().map(stage)).collect();
        self.file.write(&spans);
    }

    fn span(&self, id: &str, parent: Option<&str>, name: &str, from: Instant, to: Instant) -> Span {
        let nanos = |at: Instant| {
            let since = self.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
            (since + at.duration_since(self.started)).as_nanos()
        };
        Span {
            trace_id: self.context.trace_id.clone(),
            id: id.into(),
            parent_id: parent.map(Into::into),
            name: name.into(),
            kind: Kind::Internal,
            from_nanos: nanos(from),
            to_nanos: nanos(to),
            attributes: json!({}),
            is_error: false,
        }
    }
}

impl Stages {
    /// The request is about to be submitted.
    pub fn begin() -> Self {
        let (submitted, end) = (Instant::now(), "");
        Self { submitted, first_step: None, first_token: None, last_token: None, cached_tokens: 0, end }
    }

    pub fn token(&mut self, now: Instant) {
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
    }

    /// The engine says how long the request waited.
    pub fn done(&mut self, metrics: &RequestMetrics) {
        self.first_step = Some(self.submitted + metrics.queue_time);
        self.cached_tokens = metrics.num_cached_tokens;
    }

    fn named(&self, ended: Instant) -> [Option<(&'static str, Instant, Instant)>; 3] {
        let until_first = self.first_token.unwrap_or(ended);
        [
            self.first_step.map(|first_step| ("queue", self.submitted, first_step)),
            self.first_step.map(|first_step| ("prefill", first_step, until_first)),
            self.first_token.zip(self.last_token).map(|(first, last)| ("decode", first, last)),
        ]
    }
}

fn span_id() -> String {
    random_hex()[..16].into()
}

/// W3C's `traceparent`: what it says, and whether the caller records its trace.
fn parse(traceparent: &str) -> Option<(Context, bool)> {
    let is_id = |text: &str, len| {
        let is_hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        text.len() == len && is_hex && text.bytes().any(|b| b != b'0')
    };
    let mut parts = traceparent.split('-');
    let (version, trace_id, parent_id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_sound = version != "ff" && version.len() == 2 && is_id(trace_id, 32) && is_id(parent_id, 16);
    let flags = u8::from_str_radix(flags, 16).ok().filter(|_| flags.len() == 2 && is_sound)?;
    Some((Context { trace_id: trace_id.into(), parent_id: Some(parent_id.into()) }, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_taken_if_it_is_sound() {
        let (trace_id, parent_id) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let context = Context { trace_id: trace_id.into(), parent_id: Some(parent_id.into()) };
        assert_eq!(parse(&format!("00-{trace_id}-{parent_id}-01")), Some((context.clone(), true)));
        assert_eq!(parse(&format!("00-{trace_id}-{parent_id}-00")), Some((context, false)));
        let zeros = "0".repeat(32);
        for broken in [
            String::new(),
            format!("00-{trace_id}-{parent_id}"),
            format!("ff-{trace_id}-{parent_id}-01"),
            format!("00-{zeros}-{parent_id}-01"),
            format!("00-{}-{parent_id}-01", trace_id.to_uppercase()),
            format!("00-{trace_id}-{parent_id}-zz"),
        ] {
            assert_eq!(parse(&broken), None, "{broken}");
        }
    }
}
