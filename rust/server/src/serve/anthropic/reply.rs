//! Messages as they are answered.

use ferrule_engine::GenerateOutput;
use ferrule_engine::metrics::RequestMetrics;
use serde::Serialize;

use crate::serve::models::Lease;
use crate::serve::timing::Timing;
use crate::serve::turns::Ending;
use crate::serve::visit::Visit;

#[derive(Debug, Serialize)]
pub struct Message<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block<'a>>,
    #[serde(flatten)]
    end: End<'a>,
    usage: Usage,
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<Timing>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Block<'a> {
    Text { text: &'a str },
}

/// Null, both, until the answer has ended.
#[derive(Debug, Default, Serialize)]
pub struct End<'a> {
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
}

/// What was read from the cache is not among the input tokens, as Anthropic counts.
#[derive(Debug, Serialize)]
pub struct Usage {
    input_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
    output_tokens: usize,
}

impl Usage {
    /// Of an answer that has not begun. How much of its prompt is cached is known when that is computed.
    pub fn of_prompt(num_prompt_tokens: usize) -> Self {
        Self::from(&RequestMetrics { num_prompt_tokens, ..RequestMetrics::default() })
    }
}

impl From<&RequestMetrics> for Usage {
    fn from(metrics: &RequestMetrics) -> Self {
        Self {
            input_tokens: metrics.num_prompt_tokens - metrics.num_cached_tokens,
            // Writing to the cache costs nothing here.
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: metrics.num_cached_tokens,
            output_tokens: metrics.num_generated_tokens,
        }
    }
}

/// What an answer is called, and how long it may be.
#[derive(Debug, Clone)]
pub struct Reply {
    id: String,
    model: String,
    max_tokens: usize,
}

impl Reply {
    pub fn new(visit: &Visit, model: &Lease, max_tokens: usize) -> Self {
        let id = format!("msg_{}", visit.id.trim_start_matches("req-"));
        Self { id, model: model.served.name.clone(), max_tokens }
    }

    /// A message without content.
    pub fn message<'a>(&'a self, end: End<'a>, usage: Usage) -> Message<'a> {
        let Self { id, model, .. } = self;
        Message { id, kind: "message", role: "assistant", model, content: Vec::new(), end, usage, timing: None }
    }

    pub fn end<'a>(&self, ending: &'a Ending, metrics: &RequestMetrics) -> End<'a> {
        let name = ending.name(metrics.num_generated_tokens, self.max_tokens);
        End { stop_reason: Some(name), stop_sequence: ending.stop_sequence() }
    }

    /// The whole answer as JSON.
    pub fn whole(&self, output: &GenerateOutput) -> serde_json::Value {
        let (choice, metrics) = (&output.outputs[0], &output.metrics);
        let ending = Ending::of_choice(choice);
        let text = (!choice.text.is_empty()).then_some(Block::Text { text: &choice.text });
        let message = Message {
            content: text.into_iter().collect(),
            timing: Some(Timing::from(metrics)),
            ..self.message(self.end(&ending, metrics), Usage::from(metrics))
        };
        serde_json::to_value(message).expect("it has strings and numbers only")
    }
}
