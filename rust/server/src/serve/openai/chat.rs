//! `/v1/chat/completions`

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use ferrule_engine::metrics::RequestMetrics;
use ferrule_engine::output::{Choice, Delta, StopReason};
use ferrule_engine::text::Tokenizer;
use ferrule_engine::{ChatMessage, Event, GenerateOutput, Prompt};
use serde::Deserialize;
use serde_json::{Value, json};

use super::chunk::{self, ChunkWriter, Stamp};
use super::content::{self, Content};
use super::logprobs;
use super::request::{Delivery, UNBUILT, UNBUILT_IN_CHAT};
use super::sampling::Sampling;
use super::usage::Usage;
use crate::serve::app::App;
use crate::serve::body::{self, EVENT_STREAM, Framer, write_json};
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::Fields;
use crate::serve::timing::Timing;
use crate::serve::visit::Visit;

#[derive(Debug, Deserialize)]
struct ChatRequest {
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
}

/// What was said, and what is to follow.
#[derive(Debug, Deserialize)]
pub struct Conversation {
    pub messages: Vec<Message>,
    /// Whether the assistant's turn begins behind them; true unless the request says.
    pub add_generation_prompt: Option<bool>,
    /// Whether the model goes on with the last of them, as vLLM spells it.
    pub continue_final_message: Option<bool>,
}

#[derive(Debug, Deserialize)]
pub struct Message {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Vec<Value>>,
}

/// The conversation as chat templates know it.
pub fn conversation(messages: Vec<Message>) -> Result<Vec<ChatMessage>> {
    if messages.is_empty() {
        return Err(ServeError::invalid("messages", "messages is empty; it needs at least one message"));
    }
    messages.into_iter().enumerate().map(|(i, message)| message.convert(i)).collect()
}

impl Conversation {
    pub fn prompt(self) -> Result<Prompt> {
        let messages = conversation(self.messages)?;
        let add_generation_prompt = self.add_generation_prompt.unwrap_or(true);
        match (self.continue_final_message.unwrap_or(false), add_generation_prompt) {
            (false, true) => Ok(Prompt::Chat(messages)),
            (true, false) => Ok(Prompt::OpenChat(messages)),
            (true, true) => Err(ServeError::invalid(
                "continue_final_message",
                "continue_final_message needs add_generation_prompt to be false",
            )),
            (false, false) => Err(ServeError::invalid(
                "add_generation_prompt",
                "add_generation_prompt may be false only with continue_final_message",
            )),
        }
    }
}

impl Message {
    fn convert(self, i: usize) -> Result<ChatMessage> {
        let role = content::role(Some(&self.role), &format!("messages[{i}].role"))?;
        if self.tool_calls.is_some_and(|calls| !calls.is_empty()) {
            let param = format!("messages[{i}].tool_calls");
            return Err(ServeError::invalid(&param, format!("{param} is not supported by this server")));
        }
        let text = |content: Content| content.text(&format!("messages[{i}].content"), &["text"]);
        Ok(ChatMessage::new(role, self.content.map_or_else(|| Ok(String::new()), text)?))
    }
}

impl ChatRequest {
    /// How many of the likeliest tokens to give with each token. None: no log-probabilities.
    fn num_logprobs(&self) -> Result<Option<usize>> {
        match (self.logprobs.unwrap_or(false), self.top_logprobs) {
            (true, top) => Ok(Some(top.unwrap_or(0))),
            (false, None | Some(0)) => Ok(None),
            (false, Some(_)) => Err(ServeError::invalid("top_logprobs", "top_logprobs needs logprobs to be true")),
        }
    }
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    fields: Fields,
) -> Result<Response<Body>> {
    fields.refuse(UNBUILT)?;
    fields.refuse(UNBUILT_IN_CHAT)?;
    let (delivery, sampling): (Delivery, Sampling) = (fields.read()?, fields.read()?);
    let (request, conversation): (ChatRequest, Conversation) = (fields.read()?, fields.read()?);
    let stream = delivery.is_stream()?;
    if stream && sampling.prompt_logprobs.is_some() {
        return Err(ServeError::invalid("prompt_logprobs", "prompt_logprobs is not available when stream is true"));
    }
    // An answer may take all the room that the prompt leaves.
    let params = sampling.params(usize::MAX, request.num_logprobs()?)?;
    let prompt = conversation.prompt()?;

    let model = app.model(&visit, delivery.model.as_deref(), None).await?;
    let answer = app.ask(&visit, &model, sampling.ask(prompt, params)).await?;
    let stamp = Stamp::new("chatcmpl", &visit, &model);
    let tokenizer = model.engine.model().tokenizer.clone();
    if stream {
        let framer = ChatFramer::new(&stamp, sampling.n(), delivery.include_usage(), tokenizer);
        return Ok(body::stream(vec![answer], framer, EVENT_STREAM));
    }
    Ok(body::json(&whole(&stamp, &answer.collect().await?, tokenizer.as_deref())))
}

fn whole(stamp: &Stamp, output: &GenerateOutput, tokenizer: Option<&Tokenizer>) -> Value {
    let mut usage = Usage::default();
    usage.add(&output.metrics);
    let choices: Vec<_> = output.outputs.iter().map(|choice| whole_choice(choice, tokenizer)).collect();
    let mut response = json!({
        "id": stamp.id,
        "object": "chat.completion",
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": stamp.fingerprint,
        "choices": choices,
        "usage": usage,
        "timing": Timing::from(&output.metrics),
    });
    if !output.prompt_logprobs.is_empty() {
        response["prompt_logprobs"] = logprobs::of_prompt(tokenizer, &output.prompt_logprobs);
    }
    response
}

fn whole_choice(choice: &Choice, tokenizer: Option<&Tokenizer>) -> Value {
    let logprobs = match choice.logprobs.is_empty() {
        true => Value::Null,
        false => logprobs::of_chat(tokenizer, &choice.logprobs),
    };
    json!({
        "index": choice.index,
        "message": {"role": "assistant", "content": choice.text, "refusal": null},
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason.as_str(),
        "stop_reason": stop_reason(choice.stop_reason.as_ref()),
    })
}

/// vLLM's `stop_reason`: the stop string or token, or null.
pub fn stop_reason(reason: Option<&StopReason>) -> Value {
    match reason {
        None => Value::Null,
        Some(StopReason::Text(text)) => text.as_str().into(),
        Some(StopReason::Token(token)) => (*token).into(),
    }
}

/// Writes `chat.completion.chunk`s.
struct ChatFramer {
    chunks: ChunkWriter,
    n: usize,
    tokenizer: Option<Arc<Tokenizer>>,
    usage: Usage,
}

impl ChatFramer {
    fn new(stamp: &Stamp, n: usize, include_usage: bool, tokenizer: Option<Arc<Tokenizer>>) -> Self {
        let chunks = ChunkWriter::new(stamp, "chat.completion.chunk", include_usage);
        Self { chunks, n, tokenizer, usage: Usage::default() }
    }

    fn delta(&mut self, delta: &Delta, out: &mut Vec<u8>) {
        if !delta.text.is_empty() || !delta.logprobs.is_empty() {
            let logprobs = (!delta.logprobs.is_empty())
                .then(|| logprobs::of_chat(self.tokenizer.as_deref(), &delta.logprobs).to_string().into_bytes());
            let content = |out: &mut Vec<u8>| {
                out.extend_from_slice(b"\"delta\":{\"content\":");
                write_json(out, &delta.text);
                out.push(b'}');
            };
            self.chunks.piece(out, delta.index, content, logprobs.as_deref());
        }
        if let Some(reason) = delta.finish_reason {
            let stop_reason = stop_reason(delta.stop_reason.as_ref());
            self.chunks.last(out, delta.index, b"\"delta\":{}", reason.as_str(), stop_reason);
        }
    }
}

impl Framer for ChatFramer {
    fn open(&mut self, out: &mut Vec<u8>) {
        let role = |out: &mut Vec<u8>| out.extend_from_slice(b"\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
        (0..self.n).for_each(|index| self.chunks.piece(out, index, role, None));
    }

    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        if let Event::Delta(delta) = event {
            self.delta(&delta, out);
        }
    }

    fn done(&mut self, _: usize, metrics: &RequestMetrics, out: &mut Vec<u8>) {
        self.usage.add(metrics);
        self.chunks.flush(out, Some(&metrics.into()));
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        self.chunks.close(out, &self.usage);
    }

    fn error(&mut self, error: &ServeError, out: &mut Vec<u8>) {
        self.chunks.flush(out, None);
        chunk::error(out, error);
    }
}
