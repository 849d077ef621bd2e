//! Text to tokens, through the `tokenizers` crate, from tokenizer.json or from what a GGUF file carries.

use std::path::Path;

use crate::error::Result;
use crate::ids::TokenId;
use crate::weights::Gguf;

/// A model's tokenizer. Cheap to share between threads.
#[derive(Debug)]
pub struct Tokenizer {}

impl Tokenizer {
    /// From `tokenizer.json` (and `tokenizer_config.json`, `generation_config.json`, `config.json` for the
    /// special tokens) in a Hugging Face folder.
    pub fn from_dir(_dir: &Path) -> Result<Self> {
        todo!()
    }

    /// From `tokenizer.ggml.*`. An unknown model or pre-tokenizer kind is refused, never tokenized wrongly.
    pub fn from_gguf(_gguf: &Gguf) -> Result<Self> {
        todo!()
    }

    /// `add_special`: what the model expects at a text's start and end (BOS, EOS). Special tokens written
    /// in `text` are recognised when `parse_special` (chat templates write them; users must not).
    pub fn encode(&self, _text: &str, _add_special: bool, _parse_special: bool) -> Result<Vec<TokenId>> {
        todo!()
    }

    /// The whole text of `tokens`, with U+FFFD for bytes that are not UTF-8.
    pub fn decode(&self, _tokens: &[TokenId], _skip_special: bool) -> String {
        todo!()
    }

    /// The bytes that a token stands for in the middle of a text; empty for control tokens.
    pub fn token_bytes(&self, _token: TokenId) -> &[u8] {
        todo!()
    }

    pub fn is_special(&self, _token: TokenId) -> bool {
        todo!()
    }

    /// Size of the tokenizer's vocabulary; a model's may be padded beyond it.
    pub fn vocab_size(&self) -> usize {
        todo!()
    }

    pub fn bos(&self) -> Option<TokenId> {
        todo!()
    }

    /// Every token that ends a text or a turn (eos, eot, `<|im_end|>`, `<end_of_turn>`, ...).
    pub fn eos(&self) -> &[TokenId] {
        todo!()
    }
}
