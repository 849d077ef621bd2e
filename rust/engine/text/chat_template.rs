//! A conversation to a prompt, byte for byte as Transformers renders it.

use crate::error::Result;
use crate::request::ChatMessage;

/// A compiled Jinja template with its model's special tokens.
#[derive(Debug)]
pub struct ChatTemplate {}

impl ChatTemplate {
    /// `bos_token`, `eos_token` and other special tokens are visible to the template under those names.
    pub fn new(_source: &str, _special_tokens: &[(String, String)]) -> Result<Self> {
        todo!()
    }

    pub fn render(&self, _messages: &[ChatMessage], _add_generation_prompt: bool) -> Result<String> {
        todo!()
    }
}
