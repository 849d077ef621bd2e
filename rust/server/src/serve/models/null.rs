//! The model without weights, with a tokenizer: the whole server runs on it, and only computing is left out.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrule_engine::info::ModelInfo;
use ferrule_engine::null::{NullConfig, NullCost, NullModel};
use ferrule_engine::text::{ChatTemplate, Tokenizer};
use ferrule_engine::{EngineConfig, EngineHandle, Error, Result};
use serde_json::{Map, Value, json};

/// Bytes, 8 control tokens, and syllables: most of what is said is text, and the rest is what UTF-8 decoders must bear.
const VOCAB_SIZE: usize = 1024;
const NUM_BLOCKS: usize = 16 << 10;
const MAX_MODEL_LEN: usize = 4096;
const END_OF_TURN: &str = "<|im_end|>";
const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

pub fn engine(config: EngineConfig, step_time: Duration) -> Result<EngineHandle> {
    let (tokenizer, chat_template) = text()?;
    let cost = NullCost { fixed: step_time, ..NullCost::default() };
    let cost = (!step_time.is_zero()).then_some(cost);
    let null = NullConfig { vocab_size: VOCAB_SIZE, num_blocks: NUM_BLOCKS, cost, ..NullConfig::default() };
    let info = ModelInfo {
        config: None,
        tokenizer: Some(Arc::new(tokenizer)),
        chat_template: Some(chat_template),
        vocab_size: VOCAB_SIZE,
        max_model_len: MAX_MODEL_LEN,
        weight_bytes: 0,
        kv_cache_bytes: (NUM_BLOCKS * null.block_size * size_of::<u64>()) as u64,
        kv_cache_tokens: NUM_BLOCKS * null.block_size,
        backend: "null".into(),
    };
    EngineHandle::with_runner(Box::new(NullModel::new(null)), info, config)
}

fn text() -> Result<(Tokenizer, ChatTemplate)> {
    let folder = Folder::create()?;
    folder.write("tokenizer.json", &tokenizer_json())?;
    folder.write("tokenizer_config.json", &json!({ "eos_token": END_OF_TURN }))?;
    Ok((Tokenizer::from_dir(&folder.0)?, ChatTemplate::new(TEMPLATE, &[])?))
}

/// Byte-level BPE without merges: a text becomes its bytes, a syllable can only be said.
fn tokenizer_json() -> Value {
    let names = [END_OF_TURN, "<|im_start|>"].map(String::from);
    let reserved = (names.len()..8).map(|i| format!("<|reserved_{i}|>"));
    let control: Vec<String> = names.into_iter().chain(reserved).collect();
    let syllables = "bcdfghjklmnprstvwxz".chars().flat_map(|c| "aeiou".chars().map(move |v| format!("{c}{v}")));
    let syllables: Vec<String> = syllables.collect();
    let endings = ["", "n", "r", "s", "l", "nd", "st", "Ġ", "tĠ", ".Ġ"];
    let words = endings.iter().flat_map(|ending| syllables.iter().map(move |syllable| format!("{syllable}{ending}")));
    let bytes = (0..=u8::MAX).map(|byte| byte_level_char(byte).to_string());
    let pieces = control.iter().cloned().chain(bytes).chain(words).take(VOCAB_SIZE);
    let vocab: Map<String, Value> = pieces.zip(0..).map(|(piece, id): (_, u32)| (piece, id.into())).collect();
    let added = control.iter().zip(0..).map(|(content, id): (_, u32)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    });
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {"type": "BPE", "merges": [], "vocab": vocab},
    })
}

/// GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes follow in order from U+0100 on.
fn byte_level_char(byte: u8) -> char {
    let is_printable = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    match is_printable(byte) {
        true => char::from(byte),
        false => {
            let rank = (0..byte).filter(|&b| !is_printable(b)).count() as u32;
            char::from_u32(0x100 + rank).expect("68 characters from U+0100 on exist")
        }
    }
}

/// The tokenizer's loader reads folders; this one lives as long as that takes.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Result<Self> {
        let mut name = format!("ferrule-null-{}-", std::process::id());
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.as_nanos());
        write!(name, "{clock:x}").expect("strings take everything");
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).map_err(|err| Error::Io { path: path.clone(), what: err.to_string() })?;
        Ok(Self(path))
    }

    fn write(&self, name: &str, content: &Value) -> Result<()> {
        let path: &Path = &self.0.join(name);
        std::fs::write(path, content.to_string()).map_err(|err| Error::Io { path: path.into(), what: err.to_string() })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What stays behind costs a little room in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_goes_in_and_comes_out() {
        let (tokenizer, template) = text().unwrap();
        assert_eq!(tokenizer.vocab_size(), VOCAB_SIZE);
        for text in ["hello world", "naïve – 日本 🎉\u{7f}\n", "<|im_end|>", "the bandit"] {
            let tokens = tokenizer.encode(text, true, false).unwrap();
            assert_eq!(tokenizer.decode(&tokens, true), text);
        }
        let rendered = template.render(&[ferrule_engine::ChatMessage::new("user", "hi")], true).unwrap();
        assert_eq!(rendered, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
        let tokens = tokenizer.encode(&rendered, false, true).unwrap();
        assert_eq!(tokens.iter().filter(|token| tokenizer.eos().contains(token)).count(), 1);
    }
}
