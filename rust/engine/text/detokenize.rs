//! Tokens to text, one at a time.

use std::sync::Arc;

use super::Tokenizer;
use super::utf8::Utf8Stream;
use crate::ids::TokenId;

/// Turns tokens into text as they come. The deltas and `finish()` concatenate to
/// `Tokenizer::decode` of all tokens, for any tokens.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    utf8: Utf8Stream,
    /// The next character is the text's first.
    at_start: bool,
}

impl Detokenizer {
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, utf8: Utf8Stream::default(), at_start: true }
    }

    /// The text that `token` completes; an incomplete character waits for the tokens that complete it.
    pub fn push(&mut self, token: TokenId) -> String {
        let mut text = String::new();
        self.utf8.push(self.tokenizer.text_bytes(token, self.skip_special), &mut text);
        self.trim_start(text)
    }

    /// What is left at the end, with U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.utf8.finish(&mut text);
        self.trim_start(text)
    }

    fn trim_start(&mut self, mut text: String) -> String {
        if self.at_start && !text.is_empty() {
            self.at_start = false;
            self.tokenizer.trim_text_start(&mut text);
        }
        text
    }
}
