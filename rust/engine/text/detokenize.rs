//! Tokens to text, one at a time.

use std::sync::Arc;

use super::Tokenizer;
use crate::ids::TokenId;

/// Turns tokens into text as they come. The deltas and `finish()` concatenate to
/// `Tokenizer::decode` of all tokens, for any tokens.
#[derive(Debug)]
pub struct Detokenizer {}

impl Detokenizer {
    pub fn new(_tokenizer: Arc<Tokenizer>, _skip_special: bool) -> Self {
        todo!()
    }

    /// The text that `token` completes; an incomplete character waits for the tokens that complete it.
    pub fn push(&mut self, _token: TokenId) -> String {
        todo!()
    }

    /// What is left at the end, with U+FFFD for an incomplete character.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}
