//! The engine from other threads.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::config::EngineConfig;
use crate::error::Result;
use crate::ids::{RequestId, TokenId};
use crate::metrics::EngineStats;
use crate::model::ModelConfig;
use crate::output::{Event, GenerateOutput};
use crate::request::{ChatMessage, GenerateRequest};
use crate::runner::ModelRunner;
use crate::text::{ChatTemplate, Tokenizer};

/// What a model is, for callers that translate text.
#[derive(Debug)]
pub struct ModelInfo {
    /// None for the null model.
    pub config: Option<ModelConfig>,
    /// None: only token ids go in and out.
    pub tokenizer: Option<Arc<Tokenizer>>,
    pub chat_template: Option<ChatTemplate>,
    pub vocab_size: usize,
    /// Longest prompt plus output.
    pub max_model_len: usize,
    /// Bytes of packed weights.
    pub weight_bytes: u64,
    pub kv_cache_bytes: u64,
    /// Tokens that the KV cache holds.
    pub kv_cache_tokens: usize,
    /// Kernels' tier and threads, for people.
    pub backend: String,
}

/// A running engine. Clones share it; the last one to be dropped stops the engine's thread.
#[derive(Clone)]
pub struct EngineHandle {}

impl EngineHandle {
    /// Loads a `.gguf` file or a Hugging Face folder, and starts the engine's thread.
    pub fn load(_model: &Path, _config: EngineConfig) -> Result<Self> {
        todo!()
    }

    /// Starts an engine around any runner (the null model, tests).
    pub fn with_runner(_runner: Box<dyn ModelRunner>, _info: ModelInfo, _config: EngineConfig) -> Result<Self> {
        todo!()
    }

    pub fn model(&self) -> &ModelInfo {
        todo!()
    }

    pub fn config(&self) -> &EngineConfig {
        todo!()
    }

    /// The prompt's text as the model sees it.
    pub fn render_chat(&self, _messages: &[ChatMessage]) -> Result<String> {
        todo!()
    }

    /// Checks and enqueues. The sink is called on the engine's thread, must not block, and ends the
    /// request by answering `Break`. Its last event is `Done` or `Error`.
    pub fn submit(
        &self,
        _request: GenerateRequest,
        _sink: impl FnMut(Event) -> ControlFlow<()> + Send + 'static,
    ) -> Result<RequestId> {
        todo!()
    }

    /// Ends a request; its sink gets `Error(Cancelled)`.
    pub fn cancel(&self, _id: RequestId) {
        todo!()
    }

    /// Submits and yields events; dropping the stream cancels the request.
    pub fn stream(&self, _request: GenerateRequest) -> Result<EventStream> {
        todo!()
    }

    /// Submits and waits for the whole answer.
    pub fn generate(&self, _request: GenerateRequest) -> Result<GenerateOutput> {
        todo!()
    }

    /// Submits all, waiting for room in the queue where needed, and returns the answers in order.
    pub fn generate_all(&self, _requests: Vec<GenerateRequest>) -> Result<Vec<GenerateOutput>> {
        todo!()
    }

    pub fn stats(&self) -> EngineStats {
        todo!()
    }

    /// Stops the engine's thread; running requests get `Error(Cancelled)`. Idempotent.
    pub fn shutdown(&self) {
        todo!()
    }
}

/// Events of one request, in order, ending after `Done` or `Error`.
pub struct EventStream {}

impl EventStream {
    pub fn prompt_token_ids(&self) -> &[TokenId] {
        todo!()
    }

    /// Waits up to `timeout` for the next event: `Ok(None)` at the end, `Err(())` when time ran out.
    pub fn next_timeout(&mut self, _timeout: std::time::Duration) -> std::result::Result<Option<Event>, ()> {
        todo!()
    }
}

impl Iterator for EventStream {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        todo!()
    }
}
