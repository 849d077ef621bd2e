//! Tokenizers against their authors' libraries: `golden/text/tokenizers.json`, made by the script beside it.

use std::sync::{Arc, LazyLock};

use ferrule_engine::TokenId;
use ferrule_engine::text::{Detokenizer, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

use crate::gguf_file::{self, Metadata};

#[derive(serde::Deserialize)]
pub struct Golden {
    sentence_piece: Vec<SentencePiece>,
    byte_level: ByteLevel,
}

#[derive(serde::Deserialize)]
struct SentencePiece {
    name: String,
    metadata: Metadata,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct ByteLevel {
    metadata: Metadata,
    kinds: Vec<Kind>,
    tokenizer_json: Value,
    /// The kind that tokenizer.json describes.
    folder_kind: String,
}

#[derive(serde::Deserialize)]
struct Kind {
    pre: String,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    /// Special tokens are text.
    ids: Vec<TokenId>,
    decoded: String,
    /// Special tokens are recognised.
    #[serde(default)]
    parsed: Vec<TokenId>,
    /// `parsed`, with what belongs before and after.
    #[serde(default)]
    around: Vec<TokenId>,
    /// `parsed` as text, special tokens too.
    #[serde(default)]
    shown: String,
}

pub fn golden() -> Golden {
    serde_json::from_str(include_str!("../golden/text/tokenizers.json")).unwrap()
}

impl Golden {
    /// Metadata of a tokenizer of each of the two kinds.
    pub fn metadata(&self) -> [Metadata; 2] {
        let mut byte_level = self.byte_level.metadata.clone();
        byte_level.insert("tokenizer.ggml.pre".into(), "smollm".into());
        [self.sentence_piece[0].metadata.clone(), byte_level]
    }
}

/// A tokenizer.json without its long lists, so that random changes hit what is around them.
pub fn folder_json() -> &'static str {
    static JSON: LazyLock<String> = LazyLock::new(|| {
        let mut json = golden().byte_level.tokenizer_json;
        json["model"]["merges"].as_array_mut().unwrap().truncate(4);
        json["model"]["vocab"].as_object_mut().unwrap().retain(|_, id| id.as_u64().unwrap() < 275);
        json.to_string()
    });
    &JSON
}

/// A tokenizer of each of the two kinds, loaded once.
fn both() -> &'static [Arc<Tokenizer>; 2] {
    static BOTH: LazyLock<[Arc<Tokenizer>; 2]> =
        LazyLock::new(|| golden().metadata().map(|metadata| Arc::new(gguf_file::load(&metadata).unwrap())));
    &BOTH
}

fn check_byte_level(name: &str, tokenizer: &Tokenizer, cases: &[Case]) {
    for case in cases {
        let encode = |add_special, parse| tokenizer.encode(&case.text, add_special, parse).unwrap();
        assert_eq!(encode(false, false), case.ids, "{name}: {:?}", case.text);
        assert_eq!(encode(false, true), case.parsed, "{name}, special tokens parsed: {:?}", case.text);
        assert_eq!(encode(true, true), case.around, "{name}, special tokens around: {:?}", case.text);
        assert_eq!(tokenizer.decode(&case.parsed, true), case.decoded, "{name}");
        assert_eq!(tokenizer.decode(&case.parsed, false), case.shown, "{name}");
    }
}

#[test]
fn sentence_piece_vocabularies_tokenize_as_in_sentencepiece() {
    for SentencePiece { name, metadata, cases } in golden().sentence_piece {
        let tokenizer = gguf_file::load(&metadata).unwrap();
        for case in cases {
            assert_eq!(tokenizer.encode(&case.text, false, false).unwrap(), case.ids, "{name}: {:?}", case.text);
            // The library writes an unknown piece as " ⁇ "; here it is a special token, with its own name.
            if name != "no_bytes" {
                assert_eq!(tokenizer.decode(&case.ids, true), case.decoded, "{name}: {:?}", case.text);
            }
        }
    }
}

#[test]
fn byte_level_kinds_tokenize_as_in_tokenizers() {
    let ByteLevel { metadata, kinds, .. } = golden().byte_level;
    for kind in kinds {
        let mut metadata = metadata.clone();
        metadata.insert("tokenizer.ggml.pre".into(), kind.pre.as_str().into());
        check_byte_level(&kind.pre, &gguf_file::load(&metadata).unwrap(), &kind.cases);
    }
}

#[test]
fn a_folder_tokenizes_as_in_tokenizers() {
    let ByteLevel { tokenizer_json, folder_kind, kinds, .. } = golden().byte_level;
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, json: &Value| std::fs::write(dir.path().join(name), json.to_string()).unwrap();
    write("tokenizer.json", &tokenizer_json);
    write("tokenizer_config.json", &serde_json::json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}}));
    write("generation_config.json", &serde_json::json!({"eos_token_id": [4, 1]}));
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let kind = kinds.iter().find(|kind| kind.pre == folder_kind).unwrap();
    check_byte_level("folder", &tokenizer, &kind.cases);
    // </s>, then <|im_start|> because the generation configuration says so, then known names.
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(3), &[4, 1, 0, 2][..]));
    assert!(tokenizer.is_special(4) && !tokenizer.is_special(300));
    assert_eq!(tokenizer.token_bytes(4), b"");
}

#[test]
fn users_cannot_write_control_tokens() {
    for tokenizer in both() {
        for id in (0..tokenizer.vocab_size() as TokenId).filter(|&id| tokenizer.is_special(id)) {
            let name = tokenizer.decode(&[id], false);
            let ids = tokenizer.encode(&format!("a{name}b {name}"), false, false).unwrap();
            assert!(!ids.iter().any(|&id| tokenizer.is_special(id)), "{name}: {ids:?}");
            assert!(tokenizer.encode(&name, false, true).unwrap().contains(&id), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn deltas_concatenate_to_the_whole_text(
        tokens in prop::collection::vec(0u32..720, 0..60),
        skip_special: bool,
    ) {
        for tokenizer in both() {
            let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip_special);
            let mut text: String = tokens.iter().map(|&token| detokenizer.push(token)).collect();
            text += &detokenizer.finish();
            prop_assert_eq!(text, tokenizer.decode(&tokens, skip_special));
        }
    }

    #[test]
    fn any_text_comes_back(text in "(\\PC|[ \n\t\u{0}a-z]|the )*") {
        let [sentence_piece, byte_level] = both();
        let round_trip = |tokenizer: &Tokenizer| tokenizer.decode(&tokenizer.encode(&text, false, false).unwrap(), true);
        // A literal '▁' is a space to SentencePiece.
        prop_assert_eq!(round_trip(sentence_piece), text.replace('▁', " "));
        prop_assert_eq!(round_trip(byte_level), &*text);
    }
}
