//! The engine from other threads.

use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::admit::{self, Limits};
use crate::config::EngineConfig;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::ids::{RequestId, TokenId};
use crate::info::ModelInfo;
use crate::intake::{Intake, Sink, Submission};
use crate::load::load;
use crate::metrics::EngineStats;
use crate::output::{Collector, Event, GenerateOutput};
use crate::request::{GenerateRequest, Prompt, Request};
use crate::runner::ModelRunner;
use crate::snapshot::Snapshot;
use crate::stream::{EventStream, PendingOutput};
use crate::text::ChatTemplate;

/// A running engine. Clones share it; the last one to be dropped stops the engine's thread.
#[derive(Clone)]
pub struct EngineHandle(Arc<Shared>);

struct Shared {
    model: ModelInfo,
    config: EngineConfig,
    limits: Limits,
    intake: Arc<Intake>,
    stats: Arc<Mutex<EngineStats>>,
    next_request_id: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl EngineHandle {
    /// Loads a `.gguf` file or a Hugging Face folder, and starts the engine's thread.
    pub fn load(model: &Path, config: EngineConfig) -> Result<Self> {
        let (runner, info) = load(model, &config)?;
        Self::with_runner(runner, info, config)
    }

    /// Starts an engine around any runner (the null model, tests).
    pub fn with_runner(runner: Box<dyn ModelRunner>, mut model: ModelInfo, config: EngineConfig) -> Result<Self> {
        config.validate()?;
        model.max_model_len = model.max_model_len.min(config.max_model_len.unwrap_or(usize::MAX));
        if runner.vocab_size() != model.vocab_size {
            let (runner, model) = (runner.vocab_size(), model.vocab_size);
            return Err(Error::Internal(format!("the runner has {runner} tokens and the model's description {model}")));
        }
        let intake = Arc::new(Intake::new(config.max_queue_len));
        let stats = Arc::<Mutex<EngineStats>>::default();
        let engine = Engine::new(runner, model.tokenizer.clone(), &config, intake.clone(), stats.clone());
        let limits = engine.limits(&config);
        let thread = std::thread::Builder::new()
            .name("ferrule-engine".into())
            .spawn(move || engine.run())
            .map_err(|err| Error::OutOfMemory(format!("the engine's thread cannot be started: {err}")))?;
        let (next_request_id, thread) = (AtomicU64::new(1), Mutex::new(Some(thread)));
        Ok(Self(Arc::new(Shared { model, config, limits, intake, stats, next_request_id, thread })))
    }

    pub fn model(&self) -> &ModelInfo {
        &self.0.model
    }

    pub fn config(&self) -> &EngineConfig {
        &self.0.config
    }

    /// The prompt's tokens, as `submit` makes them.
    pub fn tokenize(&self, prompt: Prompt) -> Result<Vec<TokenId>> {
        admit::tokens(prompt, self.model())
    }

    /// What makes a conversation a prompt, or why there is nothing that does.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        admit::chat_template(&self.0.model)
    }

    /// Checks and enqueues. The sink is called on the engine's thread, must not block, and ends the
    /// request by answering `Break`. Its last event is `Done` or `Error`.
    pub fn submit(
        &self,
        request: GenerateRequest,
        sink: impl FnMut(Event) -> ControlFlow<()> + Send + 'static,
    ) -> Result<RequestId> {
        let request = self.admit(request)?;
        let id = request.id;
        self.0.intake.push(submission(request, Box::new(sink)))?;
        Ok(id)
    }

    /// Ends a request; its sink gets `Error(Cancelled)`.
    pub fn cancel(&self, id: RequestId) {
        self.0.intake.cancel(id);
    }

    /// Submits and yields events; dropping the stream cancels the request.
    pub fn stream(&self, request: GenerateRequest) -> Result<EventStream> {
        let request = self.admit(request)?;
        let (sender, events) = std::sync::mpsc::channel();
        let stream = EventStream::new(self.clone(), request.id, request.prompt.clone(), events);
        let sink = move |event| sender.send(event).map_or(ControlFlow::Break(()), ControlFlow::Continue);
        self.0.intake.push(submission(request, Box::new(sink)))?;
        Ok(stream)
    }

    /// Submits; the answer can be waited for.
    pub fn begin(&self, request: GenerateRequest) -> Result<PendingOutput> {
        let (output, submission) = self.prepare(self.admit(request)?);
        self.0.intake.push(submission)?;
        Ok(output)
    }

    /// Submits and waits for the whole answer.
    pub fn generate(&self, request: GenerateRequest) -> Result<GenerateOutput> {
        self.begin(request)?.wait()
    }

    /// Submits all, waiting for room in the queue where needed, and returns the answers in order.
    /// Where one cannot be answered, that error is returned and the others are cancelled.
    pub fn generate_all(&self, requests: Vec<GenerateRequest>) -> Result<Vec<GenerateOutput>> {
        let requests: Vec<Request> = requests.into_iter().map(|request| self.admit(request)).collect::<Result<_>>()?;
        let mut outputs = Vec::with_capacity(requests.len());
        for request in requests {
            let (output, submission) = self.prepare(request);
            self.0.intake.push_waiting(submission)?;
            outputs.push(output);
        }
        outputs.into_iter().map(PendingOutput::wait).collect()
    }

    pub fn stats(&self) -> EngineStats {
        let stats = self.0.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        EngineStats { num_waiting: self.0.intake.num_waiting(), ..stats }
    }

    /// Calls `watcher` on the engine's thread between two steps: it must not block. It is dropped uncalled if the
    /// engine ends first.
    pub fn watch(&self, watcher: impl FnOnce(Snapshot) + Send + 'static) {
        self.0.intake.watch(Box::new(watcher));
    }

    /// Whether a defect ended the engine: it takes no more requests, and its memory is given back.
    pub fn is_broken(&self) -> bool {
        self.0.intake.is_broken()
    }

    /// Stops the engine's thread; running requests get `Error(Cancelled)`. Idempotent.
    pub fn shutdown(&self) {
        self.0.shutdown();
    }

    fn admit(&self, request: GenerateRequest) -> Result<Request> {
        let id = RequestId(self.0.next_request_id.fetch_add(1, Ordering::Relaxed));
        // The standard library's hasher is keyed at random per process and instance.
        let seed = RandomState::new().hash_one(id);
        admit::admit(request, &self.0.model, self.0.limits, id, seed)
    }

    fn prepare(&self, request: Request) -> (PendingOutput, Submission) {
        let (sender, output) = std::sync::mpsc::channel();
        let pending = PendingOutput::new(self.clone(), request.id, output);
        let mut collector = Collector::new(request.prompt.clone());
        let sink = move |event| {
            if let Some(output) = collector.push(event) {
                // After the last event, whether anybody waits changes nothing.
                let _ = sender.send(output);
            }
            ControlFlow::Continue(())
        };
        (pending, submission(request, Box::new(sink)))
    }
}

fn submission(request: Request, sink: Sink) -> Submission {
    Submission { request, sink, submitted: Instant::now() }
}

impl Shared {
    fn shutdown(&self) {
        self.intake.close(Error::Cancelled("the engine was shut down".into()));
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A sink may hold the last handle: the engine's thread cannot wait for itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            thread.join().expect("the engine's thread catches panics");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.shutdown();
    }
}
