//! `/v1/responses`: nothing is kept, so every request has the whole conversation.

mod input;
mod reply;
mod stream;

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use ferrule_engine::{Prompt, SamplingParams};
use serde::Deserialize;
use serde_json::{Map, Value};

use self::input::Input;
use self::reply::{Echo, Reply};
use self::stream::ResponseFramer;
use super::request::UNBUILT;
use super::sampling::Sampling;
use crate::serve::app::App;
use crate::serve::body::{self, EVENT_STREAM};
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::{Fields, Unbuilt, is_empty, is_false, never, unbuilt};
use crate::serve::visit::Visit;

/// What there is no use for changes nothing: `include` may ask for reasoning, of which there is none.
const UNBUILT_IN_RESPONSES: &[Unbuilt] = &[
    unbuilt("tools", is_empty),
    unbuilt("tool_choice", |value| value == "none" || value == "auto"),
    unbuilt("conversation", never),
    unbuilt("prompt", never),
    unbuilt("background", is_false),
    unbuilt("truncation", |value| value == "disabled"),
    unbuilt("top_logprobs", |value| *value == 0),
    unbuilt("reasoning", |value| value["effort"].is_null() || value["effort"] == "none"),
    unbuilt("include", |value| {
        *value == serde_json::json!([]) || *value == serde_json::json!(["reasoning.encrypted_content"])
    }),
];

#[derive(Debug, Deserialize)]
struct Request {
    model: Option<String>,
    input: Input,
    instructions: Option<String>,
    max_output_tokens: Option<usize>,
    stream: Option<bool>,
    text: Option<Text>,
    previous_response_id: Option<String>,
    metadata: Option<Map<String, Value>>,
    /// As sent: the engine's numbers have fewer digits.
    temperature: Option<f64>,
    top_p: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Text {
    format: Option<Format>,
}

#[derive(Debug, Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: String,
}

impl Request {
    fn read(fields: &Fields) -> Result<Self> {
        fields.refuse(UNBUILT)?;
        fields.refuse(UNBUILT_IN_RESPONSES)?;
        let request: Self = fields.read()?;
        if request.previous_response_id.is_some() {
            let message = "previous_response_id is not supported: this server keeps no responses, so input must have \
                           the whole conversation";
            return Err(ServeError::invalid("previous_response_id", message));
        }
        match request.text.as_ref().and_then(|text| text.format.as_ref()) {
            Some(Format { kind }) if kind != "text" => {
                let message = format!("text.format of type '{kind}' is not supported by this server; it writes text");
                Err(ServeError::invalid("text.format", message))
            }
            _ if request.max_output_tokens == Some(0) => {
                Err(ServeError::invalid("max_output_tokens", "max_output_tokens is 0: at least 1"))
            }
            _ => Ok(request),
        }
    }
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    fields: Fields,
) -> Result<Response<Body>> {
    let request = Request::read(&fields)?;
    let sampling: Sampling = fields.read()?;
    let params = SamplingParams {
        n: 1,
        // An answer may take all the room that the prompt leaves.
        max_tokens: request.max_output_tokens.unwrap_or(usize::MAX),
        prompt_logprobs: None,
        ..sampling.params(usize::MAX, None)?
    };
    let echo = Echo {
        temperature: request.temperature.unwrap_or(1.0),
        top_p: request.top_p.unwrap_or(1.0),
        instructions: request.instructions.clone(),
        max_output_tokens: request.max_output_tokens,
        metadata: request.metadata.unwrap_or_default(),
    };
    let prompt = Prompt::Chat(request.input.conversation(request.instructions.as_deref())?);

    let model = app.model(&visit, request.model.as_deref(), None).await?;
    let answer = app.ask(&visit, &model, sampling.ask(prompt, params)).await?;
    let reply = Reply::new(echo, &visit, &model);
    if request.stream.unwrap_or(false) {
        return Ok(body::stream(vec![answer], ResponseFramer::new(reply), EVENT_STREAM));
    }
    Ok(body::json(&reply.whole(&answer.collect().await?)))
}
