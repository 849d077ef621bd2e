//! What requests of both kinds have in common on the wire.

use axum::body::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::serve::body;
use crate::serve::error::{Result, ServeError};

/// A body that is a JSON object. Fields are read from it by type; those that nobody reads are ignored.
pub struct Fields(Value);

impl Fields {
    pub fn parse(body: &Bytes) -> Result<Self> {
        let fields: Map<String, Value> = body::parse(body)?;
        Ok(Self(Value::Object(fields)))
    }

    pub fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_path_to_error::deserialize(&self.0).map_err(|err| {
            let path = err.path().to_string();
            match path.as_str() {
                "." => ServeError::new(crate::serve::error::Kind::InvalidRequest, err.inner().to_string()),
                _ => ServeError::invalid(&path, format!("{path}: {}", err.inner())),
            }
        })
    }

    /// Refuses fields that would change the answer and that are not built: silence would be a wrong answer.
    pub fn refuse(&self, unbuilt: &[Unbuilt]) -> Result<()> {
        for &Unbuilt { name, harmless } in unbuilt {
            match self.0.get(name) {
                Some(value) if !value.is_null() && !harmless(value) => {
                    return Err(ServeError::invalid(name, format!("{name} is not supported by this server")));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A field of the API that Ferrule does not serve.
pub struct Unbuilt {
    name: &'static str,
    /// Values that ask for nothing.
    harmless: fn(&Value) -> bool,
}

const fn unbuilt(name: &'static str, harmless: fn(&Value) -> bool) -> Unbuilt {
    Unbuilt { name, harmless }
}

fn never(_: &Value) -> bool {
    false
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty) || value == ""
}

fn is_false(value: &Value) -> bool {
    value == false
}

/// Of both kinds of requests.
pub const UNBUILT: &[Unbuilt] = &[
    unbuilt("structured_outputs", is_empty),
    unbuilt("guided_json", never),
    unbuilt("guided_regex", never),
    unbuilt("guided_choice", never),
    unbuilt("guided_grammar", never),
    unbuilt("bad_words", is_empty),
    unbuilt("use_beam_search", is_false),
    unbuilt("logits_processors", is_empty),
    unbuilt("allowed_token_ids", is_empty),
    unbuilt("response_format", |value| value["type"] == "text"),
];

pub const UNBUILT_IN_CHAT: &[Unbuilt] = &[
    unbuilt("tools", is_empty),
    unbuilt("functions", is_empty),
    unbuilt("tool_choice", |value| value == "none" || value == "auto"),
    unbuilt("function_call", |value| value == "none" || value == "auto"),
    unbuilt("modalities", |value| *value == serde_json::json!(["text"])),
    unbuilt("audio", never),
    unbuilt("prediction", never),
    unbuilt("web_search_options", never),
    unbuilt("reasoning_effort", |value| value == "none"),
    unbuilt("echo", is_false),
    unbuilt("continue_final_message", is_false),
    unbuilt("add_generation_prompt", |value| value == true),
    unbuilt("chat_template", never),
    unbuilt("chat_template_kwargs", is_empty),
    unbuilt("documents", is_empty),
];

pub const UNBUILT_IN_COMPLETIONS: &[Unbuilt] = &[unbuilt("suffix", is_empty), unbuilt("best_of", |best| best == 1)];

/// What decides how an answer is sent.
#[derive(Debug, Default, Deserialize)]
pub struct Delivery {
    pub model: Option<String>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
}

#[derive(Debug, Default, Deserialize)]
pub struct StreamOptions {
    pub include_usage: Option<bool>,
    /// Usage so far with every chunk, as vLLM has it.
    pub continuous_usage_stats: Option<bool>,
}

impl Delivery {
    pub fn is_stream(&self) -> Result<bool> {
        let stream = self.stream.unwrap_or(false);
        match &self.stream_options {
            Some(_) if !stream => {
                Err(ServeError::invalid("stream_options", "stream_options is only allowed when stream is true"))
            }
            Some(options) if options.continuous_usage_stats == Some(true) => Err(ServeError::invalid(
                "stream_options.continuous_usage_stats",
                "stream_options.continuous_usage_stats is not supported by this server",
            )),
            _ => Ok(stream),
        }
    }

    pub fn include_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(texts: OneOrMany) -> Self {
        match texts {
            OneOrMany::One(text) => vec![text],
            OneOrMany::Many(texts) => texts,
        }
    }
}
