//! What messages are made of, in chats and in responses.

use serde::Deserialize;

use crate::serve::error::{Result, ServeError};

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of content parts")]
pub enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Deserialize)]
pub struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

impl Content {
    /// The text, parts joined. `field` is the content's name in errors, `kinds` are the types of parts that are text.
    pub fn text(self, field: &str, kinds: &[&str]) -> Result<String> {
        let parts = match self {
            Self::Text(text) => return Ok(text),
            Self::Parts(parts) => parts,
        };
        let text = |(i, Part { kind, text }): (usize, Part)| match text.filter(|_| kinds.contains(&kind.as_str())) {
            Some(text) => Ok(text),
            None => {
                let (field, kinds) = (format!("{field}[{i}]"), kinds.join(" and "));
                let takes = format!("this server takes parts of type {kinds}, with a text");
                Err(ServeError::invalid(&field, format!("{field} is of type '{kind}': {takes}")))
            }
        };
        parts.into_iter().enumerate().map(text).collect()
    }
}

/// A message's role as chat templates know it.
pub fn role(given: Option<&str>, field: &str) -> Result<&'static str> {
    let what = match given {
        Some("system" | "developer") => return Ok("system"),
        Some("user") => return Ok("user"),
        Some("assistant") => return Ok("assistant"),
        Some(role) => format!("'{role}'"),
        None => "missing".into(),
    };
    let message = format!("{field} is {what}: it must be system, developer, user or assistant");
    Err(ServeError::invalid(field, message))
}
