//! What a request for a message says.

use ferrule_engine::{Prompt, SamplingParams};
use serde::Deserialize;

use crate::serve::ask::Ask;
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::{Fields, Unbuilt, is_empty, never, unbuilt};
use crate::serve::turns::{self, Role};

/// Marks for caching (`cache_control`) are not here: every prefix is cached anyway.
const UNBUILT: &[Unbuilt] = &[
    unbuilt("tools", is_empty),
    unbuilt("tool_choice", |choice| choice["type"] == "none" || choice["type"] == "auto"),
    unbuilt("thinking", |thinking| thinking["type"] == "disabled"),
    unbuilt("output_config", is_empty),
    unbuilt("output_format", never),
    unbuilt("mcp_servers", is_empty),
    unbuilt("container", never),
    unbuilt("context_management", is_empty),
    unbuilt("speed", |speed| speed == "standard"),
];

#[derive(Debug, Deserialize)]
struct Conversation {
    messages: Vec<Message>,
    system: Option<Content>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: Role,
    content: Content,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of content blocks")]
enum Content {
    Text(String),
    Blocks(Vec<Block>),
}

#[derive(Debug, Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Sampling {
    max_tokens: usize,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    stop_sequences: Option<Vec<String>>,
}

impl Content {
    /// `path`: the field that it is, for errors.
    fn text(self, path: &str) -> Result<String> {
        let blocks = match self {
            Self::Text(text) => return Ok(text),
            Self::Blocks(blocks) => blocks,
        };
        let text = |(i, block): (usize, Block)| match (block.kind.as_str(), block.text) {
            ("text", Some(text)) => Ok(text),
            (kind, _) => {
                let param = format!("{path}[{i}]");
                let message =
                    format!("{param} is of type '{kind}': this server takes blocks of type text, with a text");
                Err(ServeError::invalid(&param, message))
            }
        };
        blocks.into_iter().enumerate().map(text).collect()
    }
}

/// The conversation alone, as for counting its tokens.
pub fn prompt(fields: &Fields) -> Result<Prompt> {
    fields.refuse(UNBUILT)?;
    let Conversation { messages, system } = fields.read()?;
    let system = system.map_or(Ok(String::new()), |system| system.text("system"))?;
    let turn = |(i, message): (usize, Message)| {
        message.content.text(&format!("messages[{i}].content")).map(|text| (message.role, text))
    };
    turns::prompt(system, messages.into_iter().enumerate().map(turn).collect::<Result<_>>()?)
}

/// What a request wants of the model, whoever transports it.
pub fn ask(fields: &Fields) -> Result<Ask> {
    let prompt = prompt(fields)?;
    let Sampling { max_tokens, temperature, top_p, top_k, stop_sequences } = fields.read()?;
    if max_tokens == 0 {
        return Err(ServeError::invalid("max_tokens", "max_tokens is 0: at least 1"));
    }
    let default = SamplingParams::default();
    let params = SamplingParams {
        max_tokens,
        temperature: temperature.unwrap_or(default.temperature),
        top_p: top_p.unwrap_or(default.top_p),
        top_k: top_k.unwrap_or(default.top_k),
        stop: stop_sequences.unwrap_or_default(),
        ..default
    };
    Ok(Ask { prompt, params, priority: 0, cache_salt: None })
}
