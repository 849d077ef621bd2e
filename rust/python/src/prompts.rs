//! Prompts and conversations, as Python writes them.

use ferrule_engine::text::Tokenizer;
use ferrule_engine::{ChatMessage, EngineHandle, GenerateRequest, Prompt, TokenId};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyString};

use crate::errors::{Raise, invalid_request};
use crate::params::SamplingParams;

/// What an argument held: callers of `score` get back what they passed, one or many.
pub enum Prompts {
    One(Prompt),
    Many(Vec<Prompt>),
}

impl Prompts {
    pub fn into_vec(self) -> Vec<Prompt> {
        match self {
            Self::One(prompt) => vec![prompt],
            Self::Many(prompts) => prompts,
        }
    }

    /// A text, token ids, or a list of either.
    pub fn from_python(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        if value.is_instance_of::<PyString>() {
            return text_or_tokens(value).map(Self::One);
        }
        let items = items(value, "a prompt")?;
        match items.first() {
            Some(first) if is_token(first) => tokens(&items).map(|ids| Self::One(Prompt::Tokens(ids))),
            _ => items.iter().map(text_or_tokens).collect::<PyResult<_>>().map(Self::Many),
        }
    }

    /// A conversation, or a list of them.
    pub fn from_conversations(value: &Bound<'_, PyAny>) -> PyResult<Self> {
        let items = items(value, "a conversation")?;
        match items.first() {
            Some(first) if first.is_instance_of::<PyDict>() => {
                Ok(Self::One(Prompt::Chat(items.iter().map(message).collect::<PyResult<_>>()?)))
            }
            _ => {
                let chats = items.iter().map(|chat| conversation(chat).map(Prompt::Chat));
                chats.collect::<PyResult<_>>().map(Self::Many)
            }
        }
    }
}

/// One text, or one list of token ids.
pub fn text_or_tokens(value: &Bound<'_, PyAny>) -> PyResult<Prompt> {
    match value.cast::<PyString>() {
        Ok(text) => Ok(Prompt::Text(text.extract()?)),
        Err(_) => tokens(&items(value, "a prompt")?).map(Prompt::Tokens),
    }
}

pub fn conversation(value: &Bound<'_, PyAny>) -> PyResult<Vec<ChatMessage>> {
    items(value, "a conversation")?.iter().map(message).collect()
}

fn message(value: &Bound<'_, PyAny>) -> PyResult<ChatMessage> {
    let part = |key: &str| -> PyResult<String> {
        let part = value.cast::<PyDict>().ok().map(|message| message.get_item(key)).transpose()?.flatten();
        part.and_then(|text| text.extract().ok()).ok_or_else(|| {
            PyTypeError::new_err(format!("a message is a dict with the texts 'role' and 'content', not {value}"))
        })
    };
    Ok(ChatMessage::new(part("role")?, part("content")?))
}

fn tokens(items: &[Bound<'_, PyAny>]) -> PyResult<Vec<TokenId>> {
    let token = |item: &Bound<'_, PyAny>| {
        item.extract::<TokenId>().map_err(|err| match err.is_instance_of::<PyOverflowError>(item.py()) {
            true => invalid_request(format!("{item} is not a token id")),
            false => PyTypeError::new_err(format!("a prompt is a text or a list of token ids, but it has {item}")),
        })
    };
    items.iter().map(token).collect()
}

/// Python's integers, and NumPy's.
fn is_token(value: &Bound<'_, PyAny>) -> bool {
    value.is_instance_of::<PyInt>() || value.hasattr("__index__").unwrap_or(false)
}

fn items<'py>(value: &Bound<'py, PyAny>, what: &str) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let odd = value.is_instance_of::<PyDict>() || value.is_instance_of::<PyBytes>();
    match value.try_iter() {
        Ok(items) if !odd => items.collect(),
        _ => Err(PyTypeError::new_err(format!("{what} cannot be a {}", value.get_type().name()?))),
    }
}

/// What is asked for besides the prompt.
pub struct Options {
    /// One for all, or one each.
    params: Vec<SamplingParams>,
    priority: i32,
    cache_salt: Option<String>,
}

impl Options {
    /// `params`: None, one SamplingParams for all, or a list with one each.
    pub fn new(params: Option<&Bound<'_, PyAny>>, priority: i32, cache_salt: Option<String>) -> PyResult<Self> {
        let params = match params {
            None => vec![SamplingParams::default()],
            Some(one) if one.is_instance_of::<SamplingParams>() => vec![one.extract()?],
            Some(many) => {
                let many = items(many, "sampling_params")?;
                many.iter().map(|one| Ok(one.extract::<SamplingParams>()?)).collect::<PyResult<_>>()?
            }
        };
        Ok(Self { params, priority, cache_salt })
    }

    pub fn one(params: SamplingParams) -> Self {
        Self { params: vec![params], priority: 0, cache_salt: None }
    }

    pub fn single(&self, prompt: Prompt) -> PyResult<GenerateRequest> {
        Ok(self.requests(vec![prompt])?.remove(0))
    }

    fn request(&self, prompt: Prompt, index: usize) -> GenerateRequest {
        let params = if self.params.len() == 1 { &self.params[0] } else { &self.params[index] };
        GenerateRequest {
            priority: self.priority,
            cache_salt: self.cache_salt.clone(),
            ..GenerateRequest::new(prompt, params.0.clone())
        }
    }

    pub fn requests(&self, prompts: Vec<Prompt>) -> PyResult<Vec<GenerateRequest>> {
        if self.params.len() != 1 && self.params.len() != prompts.len() {
            let (given, needed) = (self.params.len(), prompts.len());
            return Err(invalid_request(format!(
                "{given} sampling_params for {needed} prompts: give one, or one each"
            )));
        }
        Ok(prompts.into_iter().enumerate().map(|(index, prompt)| self.request(prompt, index)).collect())
    }
}

/// The text that the model sees, where there is one.
pub fn prompt_text(engine: &EngineHandle, prompt: &Prompt) -> PyResult<Option<String>> {
    match prompt {
        Prompt::Text(text) => Ok(Some(text.clone())),
        Prompt::Tokens(_) => Ok(None),
        Prompt::Chat(messages) => engine.chat_template().and_then(|of| of.render(messages, true)).map(Some).raise(),
        Prompt::OpenChat(messages) => engine.chat_template().and_then(|of| of.render_open(messages)).map(Some).raise(),
    }
}

pub fn tokenizer(engine: &EngineHandle) -> PyResult<&Tokenizer> {
    let none = || invalid_request("this model has no tokenizer: only token ids go in and out");
    engine.model().tokenizer.as_deref().ok_or_else(none)
}
