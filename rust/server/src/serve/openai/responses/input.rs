//! `input`: a text, or the items of a conversation.

use ferrule_engine::ChatMessage;
use serde::Deserialize;

use crate::serve::error::{Result, ServeError};

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of input items")]
pub enum Input {
    Text(String),
    Items(Vec<Item>),
}

/// A message. Its type may be left out; items of other types have other fields, and are refused by that.
#[derive(Debug, Deserialize)]
pub struct Item {
    #[serde(rename = "type")]
    kind: Option<String>,
    role: Option<String>,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of content parts")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

impl Input {
    /// The conversation as chat templates know it. Instructions come first.
    pub fn conversation(self, instructions: Option<&str>) -> Result<Vec<ChatMessage>> {
        let turns = match self {
            Self::Text(text) => vec![ChatMessage::new("user", text)],
            Self::Items(items) => {
                items.into_iter().enumerate().map(|(i, item)| item.message(i)).collect::<Result<_>>()?
            }
        };
        if turns.is_empty() {
            return Err(ServeError::invalid("input", "input is empty; it needs at least one message"));
        }
        let system = instructions.map(|text| ChatMessage::new("system", text));
        Ok(system.into_iter().chain(turns).collect())
    }
}

impl Item {
    fn message(self, i: usize) -> Result<ChatMessage> {
        let bad = |field: &str, message: String| Err(ServeError::invalid(&format!("input[{i}]{field}"), message));
        match self.kind.as_deref() {
            None | Some("message") => {}
            Some(kind) => {
                return bad("", format!("input[{i}] is of type '{kind}': this server takes items of type message"));
            }
        }
        let role = match self.role.as_deref() {
            Some(role @ ("system" | "user" | "assistant")) => role,
            Some("developer") => "system",
            role => {
                let role = role.unwrap_or("missing");
                let message = format!("input[{i}].role is {role}: it must be system, developer, user or assistant");
                return bad(".role", message);
            }
        };
        match self.content {
            None => bad(".content", format!("input[{i}].content is missing")),
            Some(Content::Text(text)) => Ok(ChatMessage::new(role, text)),
            Some(Content::Parts(parts)) => Ok(ChatMessage::new(role, text_of(parts, i)?)),
        }
    }
}

/// Assistants' turns come back with parts as they were answered.
fn text_of(parts: Vec<Part>, i: usize) -> Result<String> {
    let text = |(j, part): (usize, Part)| match (part.kind.as_str(), part.text) {
        ("input_text" | "output_text", Some(text)) => Ok(text),
        (kind, _) => {
            let param = format!("input[{i}].content[{j}]");
            let message = format!(
                "{param} is of type '{kind}': this server takes parts of type input_text and output_text, with a text"
            );
            Err(ServeError::invalid(&param, message))
        }
    };
    parts.into_iter().enumerate().map(text).collect()
}
