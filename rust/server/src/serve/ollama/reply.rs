//! Answers: lines of JSON when streamed, one object when whole.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::Response;
use ferrule_engine::metrics::RequestMetrics;
use ferrule_engine::output::{Delta, TokenLogprob};
use ferrule_engine::text::Tokenizer;
use ferrule_engine::{Event, FinishReason, TokenId};
use serde::Serialize;
use serde_json::Value;

use super::request::{Delivery, Idle, Loaded};
use super::{ND_JSON, error_json};
use crate::serve::ask::Answer;
use crate::serve::body::{self, Framer, write_json};
use crate::serve::error::{Result, ServeError};
use crate::serve::openai::token_logprobs;
use crate::serve::rfc3339::rfc3339;
use crate::serve::timing::Timing;
use crate::serve::visit::Visit;

/// Where the text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `response`
    Generate,
    /// `message`
    Chat,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Said<'a> {
    Response(&'a str),
    Message { role: &'static str, content: &'a str },
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    model: &'a str,
    created_at: String,
    #[serde(flatten)]
    said: Said<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Value>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten)]
    cost: Option<Cost<'a>>,
}

/// Durations are in nanoseconds.
#[derive(Debug, Serialize)]
struct Cost<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<&'a [TokenId]>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
    prompt_eval_duration: u64,
    eval_count: usize,
    eval_duration: u64,
    timing: Timing,
}

/// What all lines of an answer need.
pub struct Reply {
    shape: Shape,
    /// As the request named it.
    model: String,
    visit: Arc<Visit>,
    load_time: Duration,
    tokenizer: Option<Arc<Tokenizer>>,
    /// Prompt and answer so far. None: they are not sent back.
    context: Option<Vec<TokenId>>,
}

/// What a request without a prompt did.
pub fn idle(shape: Shape, delivery: &Delivery, idle: Idle) -> Response<Body> {
    let reason = match idle {
        Idle::Load => "load",
        Idle::Unload => "unload",
    };
    let model = delivery.model.as_deref().unwrap_or_default();
    body::json(&Line { done_reason: Some(reason), ..Line::new(shape, model, "", Vec::new()) })
}

impl<'a> Line<'a> {
    /// A line that is complete but for what the answer cost.
    fn new(shape: Shape, model: &'a str, text: &'a str, logprobs: Vec<Value>) -> Self {
        let said = match shape {
            Shape::Generate => Said::Response(text),
            Shape::Chat => Said::Message { role: "assistant", content: text },
        };
        let created_at = rfc3339(SystemTime::now());
        Self { model, created_at, said, logprobs, done: true, done_reason: None, cost: None }
    }
}

impl Reply {
    pub fn new(shape: Shape, delivery: &Delivery, visit: &Arc<Visit>, loaded: &Loaded) -> Self {
        Self {
            shape,
            model: delivery.model.clone().unwrap_or_default(),
            visit: visit.clone(),
            load_time: loaded.time,
            tokenizer: loaded.model.engine.model().tokenizer.clone(),
            context: None,
        }
    }

    /// The last line has the tokens of prompt and answer.
    pub fn with_context(self) -> Self {
        Self { context: Some(Vec::new()), ..self }
    }

    pub async fn send(mut self, answer: Answer, stream: bool) -> Result<Response<Body>> {
        self.add_context(&answer.prompt);
        if stream {
            return Ok(body::stream(vec![answer], LineFramer { reply: self, end: None }, ND_JSON));
        }
        let output = answer.collect().await?;
        let choice = &output.outputs[0];
        self.add_context(&choice.token_ids);
        Ok(body::json(&self.last(&choice.text, &choice.logprobs, choice.finish_reason, &output.metrics)))
    }

    fn add_context(&mut self, tokens: &[TokenId]) {
        self.context.iter_mut().for_each(|context| context.extend(tokens));
    }

    fn line<'a>(&'a self, text: &'a str, logprobs: &[TokenLogprob]) -> Line<'a> {
        Line::new(self.shape, &self.model, text, token_logprobs(self.tokenizer.as_deref(), logprobs))
    }

    fn last<'a>(
        &'a self,
        text: &'a str,
        logprobs: &[TokenLogprob],
        reason: FinishReason,
        metrics: &RequestMetrics,
    ) -> Line<'a> {
        let cost = Cost {
            context: self.context.as_deref(),
            total_duration: nanos(self.visit.started.elapsed()),
            load_duration: nanos(self.load_time),
            prompt_eval_count: metrics.num_prompt_tokens,
            prompt_eval_duration: nanos(metrics.prefill_time.unwrap_or_default()),
            eval_count: metrics.num_generated_tokens,
            eval_duration: nanos(metrics.decode_time),
            timing: Timing::from(metrics),
        };
        Line { done_reason: Some(reason.as_str()), cost: Some(cost), ..self.line(text, logprobs) }
    }
}

pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

struct LineFramer {
    reply: Reply,
    /// Known before what the answer cost is.
    end: Option<FinishReason>,
}

impl LineFramer {
    fn delta(&mut self, delta: &Delta, out: &mut Vec<u8>) {
        self.reply.add_context(&delta.token_ids);
        self.end = delta.finish_reason.or(self.end);
        if !delta.text.is_empty() || !delta.logprobs.is_empty() {
            write_line(out, &Line { done: false, ..self.reply.line(&delta.text, &delta.logprobs) });
        }
    }
}

impl Framer for LineFramer {
    fn open(&mut self, _: &mut Vec<u8>) {}

    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        if let Event::Delta(delta) = event {
            self.delta(&delta, out);
        }
    }

    fn done(&mut self, _: usize, metrics: &RequestMetrics, out: &mut Vec<u8>) {
        let reason = self.end.expect("an answer's last delta has its finish reason");
        write_line(out, &self.reply.last("", &[], reason, metrics));
    }

    fn close(&mut self, _: &mut Vec<u8>) {}

    fn error(&mut self, error: &ServeError, out: &mut Vec<u8>) {
        write_line(out, &error_json(&error.message));
    }
}

pub fn write_line(out: &mut Vec<u8>, line: &impl Serialize) {
    write_json(out, line);
    out.push(b'\n');
}
