//! `/v1/completions`

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use ferrule_engine::metrics::RequestMetrics;
use ferrule_engine::output::{Choice, Delta, TokenLogprob};
use ferrule_engine::text::Tokenizer;
use ferrule_engine::{Event, GenerateOutput, Prompt, TokenId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::chat::stop_reason;
use super::chunk::{self, ChunkWriter, Stamp};
use super::logprobs::{self, Legacy};
use super::prompts::Prompts;
use super::request::{Delivery, UNBUILT, UNBUILT_IN_COMPLETIONS};
use super::sampling::Sampling;
use super::usage::Usage;
use crate::serve::app::App;
use crate::serve::ask::Answer;
use crate::serve::body::{self, EVENT_STREAM, Framer, write_json};
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::Fields;
use crate::serve::timing::Timing;
use crate::serve::visit::Visit;

/// Unless the request says, as OpenAI has it.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Prompts of one request.
const MAX_PROMPTS: usize = 256;

#[derive(Debug, Deserialize)]
struct CompletionRequest {
    prompt: Prompts,
    logprobs: Option<usize>,
    echo: Option<bool>,
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    fields: Fields,
) -> Result<Response<Body>> {
    fields.refuse(UNBUILT)?;
    fields.refuse(UNBUILT_IN_COMPLETIONS)?;
    let (delivery, sampling): (Delivery, Sampling) = (fields.read()?, fields.read()?);
    let request: CompletionRequest = fields.read()?;
    let stream = delivery.is_stream()?;
    if stream && sampling.prompt_logprobs.is_some() {
        return Err(ServeError::invalid("prompt_logprobs", "prompt_logprobs is not available when stream is true"));
    }
    let echo = request.echo.unwrap_or(false);
    let mut params = sampling.params(DEFAULT_MAX_TOKENS, request.logprobs)?;
    let wants_prompt_logprobs = params.prompt_logprobs.is_some();
    if echo && !wants_prompt_logprobs {
        params.prompt_logprobs = request.logprobs;
    }
    let prompts = request.prompt.list();
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        let message = format!("prompt has {} prompts: 1 to {MAX_PROMPTS} are served at once", prompts.len());
        return Err(ServeError::invalid("prompt", message));
    }

    let model = app.model(&visit, delivery.model.as_deref(), None).await?;
    let tokenizer = model.engine.model().tokenizer.clone();
    let mut answers = Vec::with_capacity(prompts.len());
    let mut echoed = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let text = if let Prompt::Text(text) = &prompt { Some(text.clone()) } else { None };
        let answer = app.ask(&visit, &model, sampling.ask(prompt, params.clone())).await?;
        let decoded = || tokenizer.as_ref().map_or(String::new(), |tokenizer| tokenizer.decode(&answer.prompt, true));
        echoed.push(echo.then(|| text.unwrap_or_else(decoded)));
        answers.push(answer);
    }
    let reply =
        Reply { n: sampling.n(), logprobs: request.logprobs.is_some(), wants_prompt_logprobs, echoed, tokenizer };
    let stamp = Stamp::new("cmpl", &visit, &model);
    match stream {
        true => {
            let framer = CompletionFramer::new(&stamp, reply, delivery.include_usage(), &answers);
            Ok(body::stream(answers, framer, EVENT_STREAM))
        }
        false => Ok(body::json(&reply.whole(&stamp, answers).await?)),
    }
}

/// What is to be sent back.
struct Reply {
    n: usize,
    logprobs: bool,
    wants_prompt_logprobs: bool,
    /// Text to put before each prompt's answers.
    echoed: Vec<Option<String>>,
    tokenizer: Option<Arc<Tokenizer>>,
}

impl Reply {
    async fn whole(&self, stamp: &Stamp, answers: Vec<Answer>) -> Result<Value> {
        let (mut choices, mut usage, mut timings) = (Vec::new(), Usage::default(), Vec::new());
        for (prompt_index, answer) in answers.into_iter().enumerate() {
            let output = answer.collect().await?;
            usage.add(&output.metrics);
            timings.push(Timing::from(&output.metrics));
            choices.extend(output.outputs.iter().map(|choice| self.whole_choice(prompt_index, choice, &output)));
        }
        // One prompt is the rule; several have a list, in their order.
        let timing = if timings.len() == 1 { json!(timings[0]) } else { json!(timings) };
        Ok(json!({
            "id": stamp.id,
            "object": "text_completion",
            "created": stamp.created,
            "model": stamp.model,
            "system_fingerprint": stamp.fingerprint,
            "choices": choices,
            "usage": usage,
            "timing": timing,
        }))
    }

    fn whole_choice(&self, prompt_index: usize, choice: &Choice, output: &GenerateOutput) -> Value {
        let tokenizer = self.tokenizer.as_deref();
        let echoed = self.echoed[prompt_index].as_deref();
        let mut response = json!({
            "index": prompt_index * self.n + choice.index,
            "text": echoed.unwrap_or_default().to_owned() + &choice.text,
            "logprobs": null,
            "finish_reason": choice.finish_reason.as_str(),
            "stop_reason": stop_reason(choice.stop_reason.as_ref()),
        });
        if self.logprobs {
            let mut legacy = Legacy::default();
            let prompt = match echoed.is_some() {
                true => legacy.of_prompt(tokenizer, &output.prompt_token_ids, &output.prompt_logprobs),
                false => legacy.of_answer(tokenizer, &[]),
            };
            response["logprobs"] = prompt;
            let answer = legacy.of_answer(tokenizer, &choice.logprobs);
            Legacy::append(&mut response["logprobs"], answer);
        }
        if self.wants_prompt_logprobs {
            response["prompt_logprobs"] = logprobs::of_prompt(tokenizer, &output.prompt_logprobs);
        }
        response
    }
}

/// Writes `text_completion` chunks of all prompts' choices.
struct CompletionFramer {
    chunks: ChunkWriter,
    reply: Reply,
    prompts: Vec<Vec<TokenId>>,
    /// By choice, over all prompts.
    legacy: Vec<Legacy>,
    usage: Usage,
}

impl CompletionFramer {
    fn new(stamp: &Stamp, reply: Reply, include_usage: bool, answers: &[Answer]) -> Self {
        Self {
            chunks: ChunkWriter::new(stamp, "text_completion", include_usage),
            prompts: answers.iter().map(|answer| answer.prompt.clone()).collect(),
            legacy: vec![Legacy::default(); answers.len() * reply.n],
            reply,
            usage: Usage::default(),
        }
    }

    /// What stands before every choice of a prompt.
    fn echo(&mut self, answer: usize, logprobs: &[TokenLogprob], out: &mut Vec<u8>) {
        let Some(text) = self.reply.echoed[answer].take() else { return };
        for index in answer * self.reply.n..(answer + 1) * self.reply.n {
            let logprobs = self.reply.logprobs.then(|| {
                let tokenizer = self.reply.tokenizer.as_deref();
                self.legacy[index].of_prompt(tokenizer, &self.prompts[answer], logprobs)
            });
            self.text(index, &text, logprobs, out);
        }
    }

    fn delta(&mut self, answer: usize, delta: &Delta, out: &mut Vec<u8>) {
        let index = answer * self.reply.n + delta.index;
        if !delta.text.is_empty() || !delta.logprobs.is_empty() {
            let logprobs = self
                .reply
                .logprobs
                .then(|| self.legacy[index].of_answer(self.reply.tokenizer.as_deref(), &delta.logprobs));
            self.text(index, &delta.text, logprobs, out);
        }
        if let Some(reason) = delta.finish_reason {
            let stop_reason = stop_reason(delta.stop_reason.as_ref());
            self.chunks.last(out, index, b"\"text\":\"\"", reason.as_str(), stop_reason);
        }
    }

    fn text(&self, index: usize, text: &str, logprobs: Option<Value>, out: &mut Vec<u8>) {
        let content = |out: &mut Vec<u8>| {
            out.extend_from_slice(b"\"text\":");
            write_json(out, text);
        };
        let logprobs = logprobs.map(|logprobs| logprobs.to_string().into_bytes());
        self.chunks.piece(out, index, content, logprobs.as_deref());
    }
}

impl Framer for CompletionFramer {
    fn open(&mut self, out: &mut Vec<u8>) {
        // With log-probabilities the echo comes when they are computed.
        if !self.reply.logprobs {
            (0..self.prompts.len()).for_each(|answer| self.echo(answer, &[], out));
        }
    }

    fn event(&mut self, answer: usize, event: Event, out: &mut Vec<u8>) {
        match event {
            Event::PromptLogprobs(logprobs) => self.echo(answer, &logprobs, out),
            Event::Delta(delta) => self.delta(answer, &delta, out),
            _ => {}
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
