//! What Converse answers, whole and as events.

use ferrule_engine::metrics::RequestMetrics;
use ferrule_engine::{Event, GenerateOutput};
use serde::Serialize;
use serde_json::{Value, json};

use super::converse::ServiceTier;
use super::event_stream::{write_event, write_exception};
use super::usage::{Latency, TokenUsage};
use crate::serve::body::Framer;
use crate::serve::error::ServeError;
use crate::serve::timing::Timing;
use crate::serve::turns::Ending;

/// How a request is answered.
#[derive(Debug, Clone)]
pub struct Reply {
    pub max_tokens: usize,
    /// Sent back if the request has it.
    pub service_tier: Option<ServiceTier>,
}

/// What stands beside the answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    usage: TokenUsage,
    metrics: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<ServiceTier>,
    timing: Timing,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole {
    output: Value,
    stop_reason: &'static str,
    #[serde(flatten)]
    metadata: Metadata,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContentBlockDelta<'a> {
    content_block_index: usize,
    delta: Text<'a>,
}

#[derive(Debug, Serialize)]
struct Text<'a> {
    text: &'a str,
}

impl Reply {
    pub fn whole(&self, output: &GenerateOutput) -> impl Serialize {
        let choice = &output.outputs[0];
        let text = (!choice.text.is_empty()).then_some(Text { text: &choice.text });
        let content: Vec<_> = text.into_iter().collect();
        Whole {
            output: json!({"message": {"role": "assistant", "content": content}}),
            stop_reason: self.stop_reason(&Ending::of_choice(choice), &output.metrics),
            metadata: self.metadata(&output.metrics),
        }
    }

    fn stop_reason(&self, ending: &Ending, metrics: &RequestMetrics) -> &'static str {
        ending.name(metrics.num_generated_tokens, self.max_tokens)
    }

    fn metadata(&self, metrics: &RequestMetrics) -> Metadata {
        Metadata {
            usage: metrics.into(),
            metrics: metrics.into(),
            service_tier: self.service_tier,
            timing: metrics.into(),
        }
    }
}

pub struct ConverseFramer {
    reply: Reply,
    /// There was text.
    in_block: bool,
    ending: Option<Ending>,
}

impl ConverseFramer {
    pub fn new(reply: Reply) -> Self {
        Self { reply, in_block: false, ending: None }
    }
}

impl Framer for ConverseFramer {
    fn open(&mut self, out: &mut Vec<u8>) {
        write_event(out, "messageStart", &json!({"role": "assistant"}));
    }

    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        let Event::Delta(delta) = event else { return };
        if !delta.text.is_empty() {
            self.in_block = true;
            let delta = Text { text: &delta.text };
            write_event(out, "contentBlockDelta", &ContentBlockDelta { content_block_index: 0, delta });
        }
        self.ending = Ending::of_delta(&delta);
    }

    fn done(&mut self, _: usize, metrics: &RequestMetrics, out: &mut Vec<u8>) {
        if self.in_block {
            write_event(out, "contentBlockStop", &json!({"contentBlockIndex": 0}));
        }
        let ending = self.ending.as_ref().expect("an answer's last delta has its finish reason");
        write_event(out, "messageStop", &json!({"stopReason": self.reply.stop_reason(ending, metrics)}));
        write_event(out, "metadata", &self.reply.metadata(metrics));
    }

    fn close(&mut self, _: &mut Vec<u8>) {}

    fn error(&mut self, error: &ServeError, out: &mut Vec<u8>) {
        write_exception(out, error);
    }
}
