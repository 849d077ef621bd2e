//! What requests of both kinds have in common on the wire.

use serde::Deserialize;

use crate::serve::error::{Result, ServeError};
use crate::serve::fields::{Unbuilt, is_empty, is_false, never, unbuilt};

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
    unbuilt("truncate_prompt_tokens", never),
    unbuilt("return_token_ids", is_false),
    unbuilt("return_tokens_as_token_ids", is_false),
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
    unbuilt("chat_template", never),
    unbuilt("chat_template_kwargs", is_empty),
    unbuilt("documents", is_empty),
    unbuilt("add_special_tokens", is_false),
];

pub const UNBUILT_IN_COMPLETIONS: &[Unbuilt] = &[
    unbuilt("suffix", is_empty),
    unbuilt("best_of", |best| best == 1),
    unbuilt("add_special_tokens", |add| *add == true),
];

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
