//! Responses as they are answered.

use std::time::{SystemTime, UNIX_EPOCH};

use ferrule_engine::metrics::RequestMetrics;
use ferrule_engine::{FinishReason, GenerateOutput};
use serde_json::{Map, Value, json};

use crate::serve::models::Lease;
use crate::serve::timing::Timing;
use crate::serve::visit::Visit;

/// What a response repeats of its request.
#[derive(Debug, Clone)]
pub struct Echo {
    pub temperature: f64,
    pub top_p: f64,
    pub instructions: Option<String>,
    pub max_output_tokens: Option<usize>,
    pub metadata: Map<String, Value>,
}

#[derive(Debug, Clone)]
pub struct Reply {
    echo: Echo,
    /// The same in the names of the response and of its message.
    id: String,
    created_at: u64,
    model: String,
}

/// How far a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    InProgress,
    Completed,
    /// Cut short by `max_output_tokens` or the model's length.
    Incomplete,
    Failed,
}

impl Status {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

impl From<FinishReason> for Status {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop => Self::Completed,
            FinishReason::Length => Self::Incomplete,
        }
    }
}

impl Reply {
    pub fn new(echo: Echo, visit: &Visit, model: &Lease) -> Self {
        Self {
            echo,
            id: visit.id.trim_start_matches("req-").into(),
            created_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            model: model.served.name.clone(),
        }
    }

    pub fn item_id(&self) -> String {
        format!("msg_{}", self.id)
    }

    /// The response with `output`; usage and timing are null until it has ended.
    pub fn response(&self, status: Status, output: Vec<Value>, metrics: Option<&RequestMetrics>) -> Value {
        let incomplete = (status == Status::Incomplete).then(|| json!({"reason": "max_output_tokens"}));
        json!({
            "id": format!("resp_{}", self.id),
            "object": "response",
            "created_at": self.created_at,
            "status": status.as_str(),
            "background": false,
            "error": null,
            "incomplete_details": incomplete,
            "instructions": self.echo.instructions,
            "max_output_tokens": self.echo.max_output_tokens,
            "metadata": self.echo.metadata,
            "model": self.model,
            "output": output,
            "parallel_tool_calls": true,
            "previous_response_id": null,
            "reasoning": {"effort": null, "summary": null},
            "store": false,
            "temperature": self.echo.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": self.echo.top_p,
            "truncation": "disabled",
            "usage": metrics.map(usage),
            "user": null,
            "timing": metrics.map(Timing::from),
        })
    }

    /// The one item of the output. `text`: None before it has begun.
    pub fn item(&self, status: Status, text: Option<&str>) -> Value {
        let content: Vec<_> = text.map(part).into_iter().collect();
        let id = self.item_id();
        json!({"id": id, "type": "message", "status": status.as_str(), "role": "assistant", "content": content})
    }

    /// The whole answer.
    pub fn whole(&self, output: &GenerateOutput) -> Value {
        let choice = &output.outputs[0];
        let status = choice.finish_reason.into();
        self.response(status, vec![self.item(status, Some(&choice.text))], Some(&output.metrics))
    }
}

/// A message's part.
pub fn part(text: &str) -> Value {
    json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text})
}

/// Writing to the cache costs nothing here.
fn usage(metrics: &RequestMetrics) -> Value {
    let RequestMetrics { num_prompt_tokens, num_generated_tokens, num_cached_tokens, .. } = metrics;
    json!({
        "input_tokens": num_prompt_tokens,
        "input_tokens_details": {"cached_tokens": num_cached_tokens, "cache_write_tokens": 0},
        "output_tokens": num_generated_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": num_prompt_tokens + num_generated_tokens,
    })
}
