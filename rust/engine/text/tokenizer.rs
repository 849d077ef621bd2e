//! Text to tokens, through the `tokenizers` crate, from tokenizer.json or from what a GGUF file carries.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::pieces::Pieces;
use super::segmenter::Segmenter;
use super::utf8::Utf8Stream;
use super::{gguf_tokenizer, hf_tokenizer};
use crate::error::Result;
use crate::ids::TokenId;
use crate::weights::Gguf;

/// Control tokens that end a turn in the models that have them, whether or not their metadata says so.
pub(super) const END_OF_TURN_NAMES: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
    "<|call|>",
    "<|eot|>",
    "<|eom|>",
    "<|end_of_role|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// A model's tokenizer. Cheap to share between threads.
#[derive(Debug)]
pub struct Tokenizer {
    pub(super) segmenter: Segmenter,
    /// The text of every token, that of control tokens included.
    pub(super) pieces: Arc<Pieces>,
    pub(super) special: HashSet<TokenId>,
    /// What `add_special` puts before a text, and after it.
    pub(super) prefix: Vec<TokenId>,
    pub(super) suffix: Vec<TokenId>,
    pub(super) bos: Option<TokenId>,
    pub(super) eos: Vec<TokenId>,
    /// SentencePiece puts a space before a text; decoding takes it away.
    pub(super) trim_leading_space: bool,
}

impl Tokenizer {
    /// From `tokenizer.json` (and `tokenizer_config.json`, `generation_config.json`, `config.json` for the
    /// special tokens) in a Hugging Face folder.
    pub fn from_dir(dir: &Path) -> Result<Self> {
        hf_tokenizer::load(dir)
    }

    /// From `tokenizer.ggml.*`. An unknown model or pre-tokenizer kind is refused, never tokenized wrongly.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        gguf_tokenizer::load(gguf)
    }

    /// `add_special`: what the model expects at a text's start and end (BOS, EOS). Special tokens written
    /// in `text` are recognised when `parse_special` (chat templates write them; users must not).
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<TokenId>> {
        let tokens = self.segmenter.encode(text, parse_special)?;
        match add_special {
            true => Ok([&self.prefix[..], &tokens, &self.suffix].concat()),
            false => Ok(tokens),
        }
    }

    /// The whole text of `tokens`, with U+FFFD for bytes that are not UTF-8.
    pub fn decode(&self, tokens: &[TokenId], skip_special: bool) -> String {
        let (mut utf8, mut text) = (Utf8Stream::default(), String::new());
        for &token in tokens {
            utf8.push(self.text_bytes(token, skip_special), &mut text);
        }
        utf8.finish(&mut text);
        self.trim_text_start(&mut text);
        text
    }

    /// The bytes that a token stands for in the middle of a text; empty for control tokens.
    pub fn token_bytes(&self, token: TokenId) -> &[u8] {
        self.text_bytes(token, true)
    }

    pub fn is_special(&self, token: TokenId) -> bool {
        self.special.contains(&token)
    }

    /// Size of the tokenizer's vocabulary; a model's may be padded beyond it.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// Every token that ends a text or a turn (eos, eot, `<|im_end|>`, `<end_of_turn>`, ...).
    pub fn eos(&self) -> &[TokenId] {
        &self.eos
    }

    /// What `token` adds to a text.
    pub(super) fn text_bytes(&self, token: TokenId, skip_special: bool) -> &[u8] {
        if skip_special && self.is_special(token) { &[] } else { self.pieces.get(token) }
    }

    /// Takes the space away that encoding put before the text.
    pub(super) fn trim_text_start(&self, text: &mut String) {
        if self.trim_leading_space && text.starts_with(' ') {
            text.remove(0);
        }
    }
}

/// The bytes that a token of byte-level BPE spells; its text itself if it is not spelled that way.
pub(super) fn byte_level_bytes(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in token.chars() {
        let Some(byte) = byte_level_byte(c) else {
            bytes.truncate(start);
            bytes.extend_from_slice(token.as_bytes());
            return;
        };
        bytes.push(byte);
    }
}

/// GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow in order from U+0100 on.
fn byte_level_byte(c: char) -> Option<u8> {
    const BYTES: [Option<u8>; 0x144] = {
        let mut bytes = [None; 0x144];
        let (mut byte, mut next) = (0, 0x100);
        while byte < 0x100 {
            if matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) {
                bytes[byte] = Some(byte as u8);
            } else {
                bytes[next] = Some(byte as u8);
                next += 1;
            }
            byte += 1;
        }
        bytes
    };
    BYTES.get(c as usize).copied().flatten()
}

/// The bytes of a SentencePiece token: '▁' is a space.
pub(super) fn spaced_bytes(token: &str, bytes: &mut Vec<u8>) {
    for (at, part) in token.split('▁').enumerate() {
        bytes.extend((at > 0).then_some(b' '));
        bytes.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    #[test]
    fn the_byte_alphabet_is_complete_and_the_crates() {
        let mut bytes: Vec<u8> = ByteLevel::alphabet().into_iter().map(|c| byte_level_byte(c).unwrap()).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        let mut spelled = Vec::new();
        byte_level_bytes("ĠtheĊ", &mut spelled);
        assert_eq!(spelled, b" the\n");
    }
}
