//! Answers from a running server, over OpenAI's API.

use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use ferrule_engine::output::FinishReason;
use ferrule_engine::{GenerateRequest, Prompt, SamplingParams};
use serde_json::{Value, json};

use crate::answer::{Answer, POLL, Respond};
use crate::client::Client;
use crate::failure::{Failure, Result};
use crate::interrupt::Interrupt;

/// A model of a server.
pub struct Remote {
    client: Client,
    model: String,
}

impl Remote {
    pub fn new(client: Client, model: String) -> Self {
        Self { client, model }
    }

    /// Path and body.
    fn request(&self, request: GenerateRequest) -> (&'static str, Value) {
        let mut body = sampling(&request.params);
        body["model"] = self.model.as_str().into();
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        match request.prompt {
            Prompt::Chat(messages) => {
                body["messages"] = json!(messages);
                ("/v1/chat/completions", body)
            }
            Prompt::OpenChat(messages) => {
                body["messages"] = json!(messages);
                body["continue_final_message"] = true.into();
                body["add_generation_prompt"] = false.into();
                ("/v1/chat/completions", body)
            }
            Prompt::Text(text) => {
                body["prompt"] = text.into();
                ("/v1/completions", body)
            }
            Prompt::Tokens(tokens) => {
                body["prompt"] = json!(tokens);
                ("/v1/completions", body)
            }
        }
    }
}

/// What `ferrule run` lets people set.
fn sampling(params: &SamplingParams) -> Value {
    json!({
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        // A seed is 64 bits, and a negative one is as good as any.
        "seed": params.seed.map(|seed| seed as i64),
        "stop": params.stop,
    })
}

impl Respond for Remote {
    fn respond(&self, request: GenerateRequest, show: &mut dyn FnMut(&str) -> Result) -> Result<Answer> {
        let interrupt = Interrupt::watch();
        let (path, body) = self.request(request);
        let chunks = chunks(self.client.stream(path, &body)?);
        let mut answer = Answer::default();
        while !interrupt.is_pending() {
            match chunks.recv_timeout(POLL) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if answer.finish_reason.is_some() => break,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::machine("the server ended the connection before the answer was complete"));
                }
                Ok(chunk) => take(&mut answer, &chunk, show)?,
            }
        }
        Ok(answer)
    }
}

/// The events of a stream, read on a thread of its own: it ends, and the connection with it, when nobody listens.
fn chunks(stream: impl std::io::Read + Send + 'static) -> Receiver<Value> {
    let (sender, receiver) = sync_channel(64);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(std::io::Result::ok) {
            let event = line.strip_prefix("data: ").and_then(|event| serde_json::from_str(event).ok());
            if event.is_some_and(|event| sender.send(event).is_err()) {
                return;
            }
        }
    });
    receiver
}

fn take(answer: &mut Answer, chunk: &Value, show: &mut dyn FnMut(&str) -> Result) -> Result {
    if let Some(why) = chunk["error"]["message"].as_str() {
        return Err(Failure::machine(why));
    }
    let choice = &chunk["choices"][0];
    if let Some(text) = choice["delta"]["content"].as_str().or(choice["text"].as_str()) {
        show(text)?;
        answer.text += text;
    }
    answer.finish_reason = match choice["finish_reason"].as_str() {
        Some("stop") => Some(FinishReason::Stop),
        Some("length") => Some(FinishReason::Length),
        _ => answer.finish_reason,
    };
    take_figures(answer, &chunk["usage"], &chunk["timing"]);
    Ok(())
}

fn take_figures(answer: &mut Answer, usage: &Value, timing: &Value) {
    let metrics = &mut answer.metrics;
    let count = |value: &Value| value.as_u64().unwrap_or(0) as usize;
    let time = |name: &str| timing[name].as_f64().and_then(|ms| Duration::try_from_secs_f64(ms / 1e3).ok());
    if usage.is_object() {
        metrics.num_prompt_tokens = count(&usage["prompt_tokens"]);
        metrics.num_cached_tokens = count(&usage["prompt_tokens_details"]["cached_tokens"]);
        metrics.num_generated_tokens = count(&usage["completion_tokens"]);
    }
    if timing.is_object() {
        metrics.time_to_first_token = time("ttft_ms");
        metrics.prefill_time = time("prefill_ms");
        metrics.decode_time = time("decode_ms").unwrap_or_default();
        metrics.e2e_time = time("total_ms").unwrap_or_default();
        metrics.queue_time = time("queue_ms").unwrap_or_default();
        metrics.seed = timing["seed"].as_u64().unwrap_or(0);
    }
}
