//! Tokenizers that are broken on purpose end in an error, or in a tokenizer that still answers.

use ferrule_engine::Error;
use ferrule_engine::text::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::gguf_file::{self, Metadata};
use crate::tokenizers::{folder_json, golden};

/// The error that a change of one key leads to.
fn error_after(which: usize, key: &str, value: Option<Value>) -> Error {
    let mut metadata = golden().metadata()[which].clone();
    let key = format!("tokenizer.ggml.{key}");
    match value {
        Some(value) => metadata.insert(key, value),
        None => metadata.remove(&key),
    };
    let error = gguf_file::load(&metadata).err();
    error.unwrap_or_else(|| panic!("{} is accepted", metadata.get("tokenizer.ggml.model").unwrap_or(&Value::Null)))
}

const SENTENCE_PIECE: usize = 0;
const BYTE_LEVEL: usize = 1;

#[test]
fn what_ferrule_does_not_know_is_refused_by_name() {
    for (key, value) in [("model", "t5"), ("model", "bert"), ("model", "rwkv"), ("pre", "kimi-k2"), ("pre", "gemma4")] {
        let error = error_after(BYTE_LEVEL, key, Some(value.into()));
        assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains(&format!("'{value}'"))), "{error}");
    }
}

#[test]
fn broken_metadata_is_corrupt_and_named() {
    for (which, key, value) in [
        (SENTENCE_PIECE, "model", None),
        (SENTENCE_PIECE, "model", Some(json!(7))),
        (SENTENCE_PIECE, "tokens", None),
        (SENTENCE_PIECE, "tokens", Some(json!([]))),
        (SENTENCE_PIECE, "tokens", Some(json!("x"))),
        (SENTENCE_PIECE, "scores", None),
        (SENTENCE_PIECE, "scores", Some(json!([1.5]))),
        (SENTENCE_PIECE, "token_type", Some(json!([1, 2, 3]))),
        (SENTENCE_PIECE, "bos_token_id", Some(json!(600))),
        (SENTENCE_PIECE, "eos_token_id", Some(json!("</s>"))),
        (SENTENCE_PIECE, "unknown_token_id", Some(json!(1_000_000))),
        (BYTE_LEVEL, "merges", None),
        (BYTE_LEVEL, "merges", Some(json!([1, 2]))),
        (BYTE_LEVEL, "merges", Some(json!(["a b", "nobody knows"]))),
        (BYTE_LEVEL, "merges", Some(json!(["alone"]))),
        (BYTE_LEVEL, "eot_token_id", Some(json!(1_000_000))),
    ] {
        let error = error_after(which, key, value);
        let named = format!("tokenizer.ggml.{key}");
        assert!(matches!(&error, Error::Corrupt { what, .. } if what.contains(&named)), "{key}: {error}");
    }
}

/// Small vocabularies of odd pieces: empty, repeated, halves of byte names, of every type.
fn odd_metadata() -> impl Strategy<Value = Metadata> {
    let piece = prop_oneof![Just("".to_owned()), "[ab▁Ġ ]{1,3}", "<0x[0-9A-G+]{1,2}>", "\\PC{1,2}"];
    let token = (piece, -1i64..8, prop::num::f32::ANY);
    let ids = prop::collection::vec(0i64..20, 3);
    (prop::collection::vec(token, 1..16), ids, any::<bool>(), any::<bool>()).prop_map(|(tokens, ids, llama, prefix)| {
        let json = json!({
            "tokenizer.ggml.model": if llama { "llama" } else { "gpt2" },
            "tokenizer.ggml.pre": "smollm",
            "tokenizer.ggml.tokens": tokens.iter().map(|t| &t.0).collect::<Vec<_>>(),
            "tokenizer.ggml.token_type": tokens.iter().map(|t| t.1 - 1).collect::<Vec<_>>(),
            "tokenizer.ggml.scores": tokens.iter().map(|t| if t.2.is_finite() { t.2 } else { 0.5 }).collect::<Vec<_>>(),
            "tokenizer.ggml.merges": tokens.windows(2).map(|w| format!("{} {}", w[0].0, w[1].0)).take(2).collect::<Vec<_>>(),
            "tokenizer.ggml.bos_token_id": ids[0],
            "tokenizer.ggml.eos_token_id": ids[1],
            "tokenizer.ggml.unknown_token_id": ids[2],
            "tokenizer.ggml.add_space_prefix": prefix,
        });
        json.as_object().unwrap().clone()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn odd_vocabularies_answer_or_are_refused(metadata in odd_metadata(), text in "([ab▁ <>]|\\PC){0,20}") {
        if let Ok(tokenizer) = gguf_file::load(&metadata) {
            for parse_special in [false, true] {
                let tokens = tokenizer.encode(&text, true, parse_special).unwrap();
                prop_assert!(tokens.iter().all(|&token| (token as usize) < tokenizer.vocab_size()));
                tokenizer.decode(&tokens, false);
            }
        }
    }
}

#[test]
fn long_texts_of_one_letter_take_no_quadratic_time() {
    for metadata in golden().metadata() {
        let tokenizer = gguf_file::load(&metadata).unwrap();
        let started = std::time::Instant::now();
        for text in ["a".repeat(200_000), " ".repeat(200_000), "é".repeat(100_000), "1".repeat(100_000)] {
            assert!(!tokenizer.encode(&text, false, false).unwrap().is_empty());
        }
        assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
    }
}

/// Regular expressions give up on longer runs, and would leave the rest of the text uncut.
#[test]
fn endless_white_space_is_refused() {
    let tokenizer = gguf_file::load(&golden().metadata()[BYTE_LEVEL]).unwrap();
    assert!(tokenizer.encode(&" a".repeat(600_000), false, false).is_ok());
    let error = tokenizer.encode(&" ".repeat(500_001), false, false).unwrap_err();
    assert!(matches!(&error, Error::InvalidRequest(what) if what.contains("500001")), "{error}");
}

/// The error of a folder whose tokenizer.json says something else under one key.
fn folder_error_after(key: &str, value: Value) -> Error {
    let mut json: Value = serde_json::from_str(folder_json()).unwrap();
    *json.pointer_mut(key).unwrap() = value;
    folder_of(json.to_string().as_bytes()).expect_err(key)
}

fn folder_of(tokenizer_json: &[u8]) -> Result<Tokenizer, Error> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer_json).unwrap();
    Tokenizer::from_dir(dir.path())
}

#[test]
fn tokenizer_files_that_contradict_themselves_are_corrupt() {
    for (key, value) in [
        ("/post_processor/special_tokens", json!({})),
        ("/decoder", json!(7)),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("(")),
        ("/model/merges/0", json!(["nobody", "knows"])),
        ("/model/vocab", json!({})),
    ] {
        let error = folder_error_after(key, value);
        assert!(matches!(error, Error::Corrupt { .. }), "{key}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn broken_tokenizer_files_are_refused_or_answer(
        at in 0usize..1_000_000,
        with in "[\\[\\]{}\",0-9a-z:]{0,3}",
        gone in 0usize..40,
    ) {
        let json = folder_json();
        let at = at % json.len();
        let mut bytes = json.as_bytes().to_vec();
        bytes.splice(at..(at + gone).min(json.len()), with.into_bytes());
        if let Ok(tokenizer) = folder_of(&bytes) {
            let tokens = tokenizer.encode("Hello <|im_end|> wörld 12", true, true).unwrap_or_default();
            tokenizer.decode(&tokens, false);
        }
    }
}
