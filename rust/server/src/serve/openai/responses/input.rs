//! `input`: a text, or the items of a conversation.

use ferrule_engine::ChatMessage;
use serde::Deserialize;

use crate::serve::error::{Result, ServeError};
use crate::serve::openai::content::{self, Content};

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
        let role = content::role(self.role.as_deref(), &format!("input[{i}].role"))?;
        let Some(content) = self.content else {
            return bad(".content", format!("input[{i}].content is missing"));
        };
        // Assistants' turns come back with parts as they were answered.
        Ok(ChatMessage::new(role, content.text(&format!("input[{i}].content"), &["input_text", "output_text"])?))
    }
}
