//! From a dialect's request to an answer that streams.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use ferrule_engine::output::Collector;
use ferrule_engine::request::Task;
use ferrule_engine::{
    EngineHandle, Event, GenerateOutput, GenerateRequest, Prompt, RequestId, SamplingParams, TokenId,
};

use super::app::App;
use super::drain::{Drain, Phase, shutting_down};
use super::error::{Kind, Result, ServeError};
use super::events::{self, EventReceiver, Until};
use super::meter::{Holds, Meter};
use super::models::{KeepAlive, Lease};
use super::pace::Pause;
use super::visit::Visit;

/// What a dialect wants of a model.
#[derive(Debug, Clone)]
pub struct Ask {
    pub prompt: Prompt,
    pub params: SamplingParams,
    /// Higher runs earlier.
    pub priority: i32,
    /// Prefixes are shared only between requests with the same salt.
    pub cache_salt: Option<String>,
}

impl App {
    /// The model that a request names, in memory. None: the only one that is served.
    pub async fn model(&self, visit: &Visit, name: Option<&str>, keep_alive: Option<KeepAlive>) -> Result<Lease> {
        // Refused before anything is loaded for it.
        let in_flight = self.drain.enter()?;
        let lease = tokio::select! {
            lease = self.registry.acquire(name, keep_alive) => lease?,
            () = self.drain.stopping() => return Err(shutting_down()),
        };
        visit.record.update().model = Some(lease.served.name.clone());
        Ok(lease.of_request(in_flight))
    }

    /// Tokenizes, checks and enqueues.
    pub async fn ask(&self, visit: &Visit, model: &Lease, ask: Ask) -> Result<Answer> {
        self.enqueue(visit, model, Task::Generate, ask).await
    }

    /// The same for the prompt's vector instead of what comes after it.
    pub async fn embed(&self, visit: &Visit, model: &Lease, prompt: Prompt) -> Result<Answer> {
        let ask = Ask { prompt, params: SamplingParams::greedy(0), priority: 0, cache_salt: None };
        self.enqueue(visit, model, Task::Embed, ask).await
    }

    async fn enqueue(&self, visit: &Visit, model: &Lease, task: Task, ask: Ask) -> Result<Answer> {
        let prompt = tokens(model, ask.prompt).await?;
        ask.params.validate(model.engine.model().vocab_size)?;
        check_length(model, prompt.len(), ask.params.max_tokens)?;
        let n = ask.params.n;
        let max_tokens = ask.params.max_tokens.min(model.engine.model().max_model_len - prompt.len());
        let reservation = self.auth.reserve(&visit.caller, (prompt.len() + n * max_tokens) as u64)?;
        model.metrics.begin(n, max_tokens);
        visit.record.update().prompt_tokens += prompt.len();

        let (sender, receiver) = events::channel();
        let taken = Arc::<AtomicBool>::default();
        let holds = Holds { lease: model.clone(), reservation };
        let mut meter = Meter::new(holds, visit, prompt.len(), n, taken.clone());
        let sink = move |event: Event| -> ControlFlow<()> {
            meter.see(&event);
            sender.send(event)
        };
        self.recent.add(visit);
        let request = GenerateRequest {
            task,
            priority: ask.priority,
            cache_salt: visit.caller.cache_salt(ask.cache_salt),
            ..GenerateRequest::new(Prompt::Tokens(prompt.clone()), ask.params)
        };
        let id = model.engine.submit(request, sink).map_err(|error| explain(&self.drain, error))?;
        taken.store(true, Ordering::Release);
        visit.record.update().engine_requests.push(id);
        Ok(Answer {
            engine: model.engine.clone(),
            drain: self.drain.clone(),
            id,
            prompt,
            events: receiver,
            pause: Pause::new(self.pace),
            ended: false,
        })
    }
}

pub async fn tokens(model: &Lease, prompt: Prompt) -> Result<Vec<TokenId>> {
    let num_bytes = match &prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Tokens(_) => return Ok(model.engine.tokenize(prompt)?),
        Prompt::Chat(messages) | Prompt::OpenChat(messages) => messages.iter().map(|turn| turn.content.len()).sum(),
    };
    tokenize(model, num_bytes, |engine| engine.tokenize(prompt)).await
}

/// Texts beyond this many bytes are tokenized one after the other.
const LONG_TEXT: usize = 64 << 10;

/// The tokens that `work` makes of so many bytes of text; away from the threads that serve connections, since megabytes
/// take seconds. They may also take a gigabyte of memory.
pub async fn tokenize(
    model: &Lease,
    num_bytes: usize,
    work: impl FnOnce(&EngineHandle) -> ferrule_engine::Result<Vec<TokenId>> + Send + 'static,
) -> Result<Vec<TokenId>> {
    let turn = match num_bytes > LONG_TEXT {
        true => Some(model.long_texts.clone().acquire_owned().await.expect("the semaphore is never closed")),
        false => None,
    };
    let engine = model.engine.clone();
    let work = move || {
        // Kept to the end, although the client may have left.
        let _turn = turn;
        work(&engine)
    };
    let tokens = tokio::task::spawn_blocking(work).await;
    tokens.map_err(|_| ServeError::new(Kind::Internal, "tokenizing the prompt panicked"))?.map_err(ServeError::from)
}

/// The tokens of a text whose author wrote control tokens where they belong; the one that begins texts is added.
pub fn written(engine: &EngineHandle, text: &str) -> ferrule_engine::Result<Vec<TokenId>> {
    let Some(tokenizer) = &engine.model().tokenizer else { return engine.tokenize(Prompt::Text(text.into())) };
    let tokens = tokenizer.encode(text, true, true)?;
    let is_twice = tokenizer.bos().is_some_and(|bos| tokens.starts_with(&[bos, bos]));
    Ok(tokens[usize::from(is_twice)..].to_vec())
}

/// The engine would refuse it too; dialects have a code for this.
fn check_length(model: &Lease, prompt_len: usize, max_tokens: usize) -> Result<()> {
    let limit = model.engine.model().max_model_len;
    if prompt_len + max_tokens.min(1) <= limit {
        return Ok(());
    }
    let message = format!(
        "the prompt has {prompt_len} tokens, and the longest sequence of the model '{}' (prompt and answer) is {limit} \
         tokens: shorten the prompt",
        model.served.name
    );
    Err(ServeError::new(Kind::ContextLength, message))
}

fn explain(drain: &Drain, error: ferrule_engine::Error) -> ServeError {
    match error {
        ferrule_engine::Error::Cancelled(_) if drain.phase() == Phase::Stopping => shutting_down(),
        error => error.into(),
    }
}

/// An answer as it is made. Dropping it cancels what is left of it: its blocks are free after the engine's step.
pub struct Answer {
    pub prompt: Vec<TokenId>,
    /// No lease: a model need not stay for a client that has yet to read what it said.
    engine: EngineHandle,
    drain: Arc<Drain>,
    id: RequestId,
    events: EventReceiver,
    /// Between two frames of a stream.
    pause: Pause,
    ended: bool,
}

impl Answer {
    /// Moves the events that wait to `events`, which is empty; pending if there are none, or if it is not time to
    /// write again: an answer's end alone waits for no tick.
    pub fn poll_batch(&mut self, cx: &mut Context<'_>, events: &mut Vec<Event>) -> Poll<()> {
        let until = if self.pause.poll(cx).is_ready() { Until::Any } else { Until::End };
        let polled = self.poll_until(cx, until, events);
        if polled.is_ready() {
            self.pause.begin();
        }
        polled
    }

    fn poll_until(&mut self, cx: &mut Context<'_>, until: Until, events: &mut Vec<Event>) -> Poll<()> {
        let polled = self.events.poll_batch(cx, until, events);
        self.ended |= events.iter().any(|event| matches!(event, Event::Done(_) | Event::Error(_)));
        polled
    }

    /// The whole answer.
    pub async fn collect(mut self) -> Result<GenerateOutput> {
        let mut collector = Collector::new(std::mem::take(&mut self.prompt));
        let mut batch = Vec::new();
        loop {
            std::future::poll_fn(|cx| self.poll_until(cx, Until::End, &mut batch)).await;
            for event in batch.drain(..) {
                if let Some(output) = collector.push(event) {
                    return output.map_err(|error| self.explain(error));
                }
            }
        }
    }

    /// What a dialect says about `error`.
    pub fn explain(&self, error: ferrule_engine::Error) -> ServeError {
        explain(&self.drain, error)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.ended {
            self.engine.cancel(self.id);
        }
    }
}
