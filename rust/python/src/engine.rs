//! The Engine class: each method converts, releases the GIL, calls, and converts back.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use ferrule_engine::request::Task;
use ferrule_engine::{EngineHandle, GenerateRequest, Prompt, TokenId};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict};

use crate::async_batch::{self, Item};
use crate::async_stream::AsyncStream;
use crate::bridge::Bridge;
use crate::errors::{Raise, exception, invalid_request};
use crate::outputs::{EngineStats, ModelInfo, RequestOutput, TokenLogprob};
use crate::params::SamplingParams;
use crate::prompts::{self, Options, Prompts};
use crate::stream::Stream;
use crate::wait::interruptible;
use crate::{batch, config, models};

/// A model, loaded and running on a thread of its own.
///
/// `model` is a path to a .gguf file or to a Hugging Face folder, a name in the store such as "smollm2" (fetched
/// if it is not there), or "null": a model without weights for tests. The keyword arguments are the fields of the
/// engine's configuration. Methods may be called from any thread. An engine does not survive a fork: create it in
/// the child.
#[pyclass(frozen, module = "ferrule")]
pub struct Engine {
    /// None: closed.
    handle: Mutex<Option<EngineHandle>>,
    bridge: OnceLock<Bridge>,
}

impl Engine {
    fn handle(&self) -> PyResult<EngineHandle> {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        handle.clone().ok_or_else(|| exception(&ferrule_engine::Error::Cancelled("the engine is closed".into())))
    }

    fn bridge(&self) -> Bridge {
        self.bridge.get_or_init(Bridge::start).clone()
    }

    fn run(&self, py: Python<'_>, prompts: Prompts, options: &Options) -> PyResult<Vec<RequestOutput>> {
        let handle = self.handle()?;
        let prompts = prompts.into_vec();
        let texts: Vec<Option<String>> =
            prompts.iter().map(|prompt| prompts::prompt_text(&handle, prompt)).collect::<PyResult<_>>()?;
        let requests = options.requests(prompts)?;
        let outputs = py.detach(|| batch::run(&handle, requests))?;
        Ok(texts.into_iter().zip(outputs).map(|(text, output)| RequestOutput::new(text, output)).collect())
    }

    fn start<'py>(&self, py: Python<'py>, prompts: Prompts, options: &Options) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle()?;
        let requests = options.requests(prompts.into_vec())?;
        let items: Vec<Item> =
            py.detach(|| requests.into_iter().map(|request| item(&handle, request)).collect::<PyResult<_>>())?;
        async_batch::start(py, handle, self.bridge(), items)
    }

    fn open(&self, py: Python<'_>, prompt: Prompt, options: &Options) -> PyResult<Stream> {
        let handle = self.handle()?;
        let request = options.single(prompt)?;
        py.detach(|| handle.stream(request)).raise().map(Stream::new)
    }

    fn open_async(&self, py: Python<'_>, prompt: Prompt, options: &Options) -> PyResult<AsyncStream> {
        let handle = self.handle()?;
        let request = options.single(prompt)?;
        let item = py.detach(|| item(&handle, request))?;
        AsyncStream::open(py, handle, self.bridge(), item.request, item.prompt_token_ids)
    }
}

/// Tokenized here, because the answer shows the prompt's tokens.
fn item(handle: &EngineHandle, request: GenerateRequest) -> PyResult<Item> {
    let prompt = prompts::prompt_text(handle, &request.prompt)?;
    let prompt_token_ids = handle.tokenize(request.prompt).raise()?;
    let request = GenerateRequest { prompt: Prompt::Tokens(prompt_token_ids.clone()), ..request };
    Ok(Item { request, prompt, prompt_token_ids })
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (model, **settings), text_signature = "(model, *, max_num_seqs=64, \
        max_num_batched_tokens=512, max_model_len=None, block_size=16, kv_cache_memory=None, swap_space=0, \
        kv_cache_dtype=None, activations='int8', quantization=None, threads=None, device='cpu', cublaslt=False, \
        policy='continuous', enable_prefix_caching=True, async_scheduling=True, max_queue_len=1024, isa=None, \
        packed_weights=..., packed_weights_limit=17179869184)")]
    fn new(py: Python<'_>, model: PathBuf, settings: Option<&Bound<'_, PyDict>>) -> PyResult<Self> {
        let config = config::from_kwargs(settings)?;
        let handle = interruptible(py, move || models::load(&model, config))?;
        Ok(Self { handle: Mutex::new(Some(handle)), bridge: OnceLock::new() })
    }

    /// Answers to all prompts, in their order.
    ///
    /// `prompts` is a text, a list of token ids, or a list of either; `sampling_params` is one for all or a list
    /// with one each. Ctrl-C, or an error of one request, cancels the others.
    #[pyo3(signature = (prompts, sampling_params=None, *, priority=0, cache_salt=None))]
    fn generate(
        &self,
        py: Python<'_>,
        prompts: &Bound<'_, PyAny>,
        sampling_params: Option<&Bound<'_, PyAny>>,
        priority: i32,
        cache_salt: Option<String>,
    ) -> PyResult<Vec<RequestOutput>> {
        self.run(py, Prompts::from_python(prompts)?, &Options::new(sampling_params, priority, cache_salt)?)
    }

    /// `generate` for an event loop: an awaitable whose cancellation cancels the requests.
    #[pyo3(signature = (prompts, sampling_params=None, *, priority=0, cache_salt=None))]
    fn agenerate<'py>(
        &self,
        py: Python<'py>,
        prompts: &Bound<'py, PyAny>,
        sampling_params: Option<&Bound<'py, PyAny>>,
        priority: i32,
        cache_salt: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.start(py, Prompts::from_python(prompts)?, &Options::new(sampling_params, priority, cache_salt)?)
    }

    /// One answer as it comes: an iterator of Deltas. Dropping it cancels the request.
    #[pyo3(signature = (prompt, sampling_params=None, *, priority=0, cache_salt=None))]
    fn stream(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        sampling_params: Option<&Bound<'_, PyAny>>,
        priority: i32,
        cache_salt: Option<String>,
    ) -> PyResult<Stream> {
        self.open(py, prompts::text_or_tokens(prompt)?, &Options::new(sampling_params, priority, cache_salt)?)
    }

    /// `stream` for an event loop: an asynchronous iterator of Deltas. Call it where the loop runs.
    #[pyo3(signature = (prompt, sampling_params=None, *, priority=0, cache_salt=None))]
    fn astream(
        &self,
        py: Python<'_>,
        prompt: &Bound<'_, PyAny>,
        sampling_params: Option<&Bound<'_, PyAny>>,
        priority: i32,
        cache_salt: Option<String>,
    ) -> PyResult<AsyncStream> {
        self.open_async(py, prompts::text_or_tokens(prompt)?, &Options::new(sampling_params, priority, cache_salt)?)
    }

    /// The model's turn in a conversation, a list of {"role": ..., "content": ...}, or in each of a list of them.
    #[pyo3(signature = (messages, sampling_params=None, *, priority=0, cache_salt=None))]
    fn chat(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        sampling_params: Option<&Bound<'_, PyAny>>,
        priority: i32,
        cache_salt: Option<String>,
    ) -> PyResult<Vec<RequestOutput>> {
        self.run(py, Prompts::from_conversations(messages)?, &Options::new(sampling_params, priority, cache_salt)?)
    }

    /// `chat` for an event loop.
    #[pyo3(signature = (messages, sampling_params=None, *, priority=0, cache_salt=None))]
    fn achat<'py>(
        &self,
        py: Python<'py>,
        messages: &Bound<'py, PyAny>,
        sampling_params: Option<&Bound<'py, PyAny>>,
        priority: i32,
        cache_salt: Option<String>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.start(py, Prompts::from_conversations(messages)?, &Options::new(sampling_params, priority, cache_salt)?)
    }

    /// The model's turn as it comes.
    #[pyo3(signature = (messages, sampling_params=None, *, priority=0, cache_salt=None))]
    fn stream_chat(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        sampling_params: Option<&Bound<'_, PyAny>>,
        priority: i32,
        cache_salt: Option<String>,
    ) -> PyResult<Stream> {
        let prompt = Prompt::Chat(prompts::conversation(messages)?);
        self.open(py, prompt, &Options::new(sampling_params, priority, cache_salt)?)
    }

    /// `stream_chat` for an event loop.
    #[pyo3(signature = (messages, sampling_params=None, *, priority=0, cache_salt=None))]
    fn astream_chat(
        &self,
        py: Python<'_>,
        messages: &Bound<'_, PyAny>,
        sampling_params: Option<&Bound<'_, PyAny>>,
        priority: i32,
        cache_salt: Option<String>,
    ) -> PyResult<AsyncStream> {
        let prompt = Prompt::Chat(prompts::conversation(messages)?);
        self.open_async(py, prompt, &Options::new(sampling_params, priority, cache_salt)?)
    }

    /// Log-probabilities of a text's own tokens, from the second on; a list of them for a list of texts.
    fn score<'py>(&self, py: Python<'py>, prompts: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let prompts = Prompts::from_python(prompts)?;
        let one = matches!(prompts, Prompts::One(_));
        let outputs = self.run(py, prompts, &Options::one(SamplingParams::scoring()))?;
        let mut scores: Vec<Vec<TokenLogprob>> =
            outputs.into_iter().map(|output| output.prompt_logprobs.unwrap_or_default()).collect();
        match scores.pop() {
            Some(score) if one => score.into_bound_py_any(py),
            last => {
                scores.extend(last);
                scores.into_bound_py_any(py)
            }
        }
    }

    /// The final hidden state of each prompt's last token, of unit length: a float32 array (n, hidden_size).
    fn embed<'py>(&self, py: Python<'py>, prompts: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let handle = self.handle()?;
        let mut requests =
            Options::one(SamplingParams::default()).requests(Prompts::from_python(prompts)?.into_vec())?;
        requests.iter_mut().for_each(|request| request.task = Task::Embed);
        let rows = requests.len();
        if rows == 0 {
            return Err(invalid_request("embed got no prompts"));
        }
        let outputs = py.detach(|| batch::run(&handle, requests))?;
        let bytes: Vec<u8> = outputs
            .iter()
            .filter_map(|output| output.embedding.as_ref())
            .flatten()
            .flat_map(|x| x.to_ne_bytes())
            .collect();
        let flat = py.import("numpy")?.call_method1("frombuffer", (PyByteArray::new(py, &bytes), "float32"))?;
        flat.call_method1("reshape", (rows, -1))
    }

    /// Token ids of a text, with the special tokens that the model expects around it.
    #[pyo3(signature = (text, *, add_special_tokens=true))]
    fn encode(&self, text: &str, add_special_tokens: bool) -> PyResult<Vec<TokenId>> {
        prompts::tokenizer(&self.handle()?)?.encode(text, add_special_tokens, false).raise()
    }

    /// The text of token ids, with U+FFFD for bytes that are not UTF-8.
    #[pyo3(signature = (token_ids, *, skip_special_tokens=true))]
    fn decode(&self, token_ids: Vec<TokenId>, skip_special_tokens: bool) -> PyResult<String> {
        Ok(prompts::tokenizer(&self.handle()?)?.decode(&token_ids, skip_special_tokens))
    }

    /// A conversation as the model sees it, with the beginning of its own turn.
    fn apply_chat_template(&self, messages: &Bound<'_, PyAny>) -> PyResult<String> {
        let messages = prompts::conversation(messages)?;
        self.handle()?.chat_template().and_then(|template| template.render(&messages, true)).raise()
    }

    fn stats(&self) -> PyResult<EngineStats> {
        Ok(self.handle()?.stats().into())
    }

    /// What was loaded.
    #[getter]
    fn model(&self) -> PyResult<ModelInfo> {
        Ok(self.handle()?.model().into())
    }

    /// The settings, as a dictionary with the names of the keyword arguments.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        config::to_dict(self.handle()?.config(), py)
    }

    /// Cancels what runs and frees the model. Closing twice is fine.
    fn close(&self, py: Python<'_>) {
        let handle = self.handle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(handle) = handle {
            py.detach(|| handle.shutdown());
        }
    }

    fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_args))]
    fn __exit__(&self, py: Python<'_>, _args: &Bound<'_, pyo3::types::PyTuple>) {
        self.close(py);
    }

    fn __repr__(&self) -> String {
        match self.handle() {
            Err(_) => "Engine(closed)".into(),
            Ok(handle) => {
                let model = ModelInfo::from(handle.model());
                format!(
                    "Engine({:?}, backend={:?}, kv_cache_tokens={})",
                    model.name, model.backend, model.kv_cache_tokens
                )
            }
        }
    }
}
