//! Conversations as Converse has them.

use ferrule_engine::Prompt;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::serve::error::{Result, ServeError};
use crate::serve::turns::{self, Role};

#[derive(Debug, Deserialize)]
pub struct Conversation {
    messages: Option<Vec<Message>>,
    system: Option<Vec<Block>>,
}

#[derive(Debug, Deserialize)]
struct Message {
    role: Role,
    content: Vec<Block>,
}

/// One field, whose name says what it is.
#[derive(Debug, Deserialize)]
struct Block(Map<String, Value>);

impl Conversation {
    pub fn prompt(self) -> Result<Prompt> {
        let system = text(self.system.unwrap_or_default(), "system")?;
        let turn = |(i, message): (usize, Message)| {
            text(message.content, &format!("messages[{i}].content")).map(|text| (message.role, text))
        };
        let turns = self.messages.unwrap_or_default().into_iter().enumerate().map(turn);
        turns::prompt(system, turns.collect::<Result<_>>()?)
    }
}

/// `path`: the field that the blocks are, for errors.
fn text(blocks: Vec<Block>, path: &str) -> Result<String> {
    blocks.into_iter().enumerate().map(|(i, block)| block.text(&format!("{path}[{i}]"))).collect()
}

impl Block {
    fn text(self, path: &str) -> Result<String> {
        let mut fields = self.0.into_iter();
        match (fields.next(), fields.next()) {
            (Some((name, Value::String(text))), None) if name == "text" => Ok(text),
            // Every prefix is cached anyway.
            (Some((name, _)), None) if name == "cachePoint" => Ok(String::new()),
            (first, _) => {
                let found = first.map_or("nothing".into(), |(name, _)| format!("'{name}'"));
                let message = format!("{path} has {found}: this server takes blocks with a text and nothing else");
                Err(ServeError::invalid(path, message))
            }
        }
    }
}
