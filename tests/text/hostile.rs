//! Tokenizer metadata that is broken on purpose ends in an error, or in a tokenizer that still answers.

use ferrule_engine::Error;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::gguf_file::{self, Metadata};
use crate::tokenizers::golden;

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
