//! The default models' own vocabularies against their authors' libraries: `golden/text/real_models.json`, made by
//! the script beside it, and the texts and tokens of the reference answers in `golden/`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ferrule_engine::TokenId;
use ferrule_engine::text::Tokenizer;
use ferrule_engine::weights::Gguf;

/// (name in the store, name of the golden files)
const MODELS: [(&str, &str); 2] = [("smollm2", "smollm2"), ("gemma3:270m", "gemma3")];

#[derive(serde::Deserialize)]
struct Case {
    text: String,
    ids: Vec<TokenId>,
}

#[derive(serde::Deserialize)]
struct Answers {
    items: Vec<Answer>,
}

#[derive(serde::Deserialize)]
struct Answer {
    /// "raw", or "chat" for text that a chat template wrote.
    prompt_kind: String,
    prompt_text: String,
    prompt_ids: Vec<TokenId>,
    output_ids: Vec<TokenId>,
    output_text: String,
}

/// The model from the local store, fetched the first time.
fn tokenizer(model: &str) -> Tokenizer {
    let store = ferrule_store::Store::open_default().unwrap();
    let gguf = Gguf::open(&store.locate(model, &mut ferrule_store::Silent).unwrap()).unwrap();
    let started = Instant::now();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    println!("{model}: {} tokens ready in {:?}", tokenizer.vocab_size(), started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(2));
    tokenizer
}

fn check_answer(tokenizer: &Tokenizer, answer: &Answer) {
    let Answer { prompt_kind, prompt_text, prompt_ids, output_ids, output_text } = answer;
    let ids = tokenizer.encode(prompt_text, prompt_kind == "raw", true).unwrap();
    assert_eq!(ids, *prompt_ids, "{prompt_text:?}");
    assert_eq!(tokenizer.decode(output_ids, false), *output_text);
}

#[test]
fn real_vocabularies_tokenize_as_in_their_libraries() {
    let golden: HashMap<String, Vec<Case>> =
        serde_json::from_str(include_str!("../golden/text/real_models.json")).unwrap();
    for (model, name) in MODELS {
        let tokenizer = tokenizer(model);
        for Case { text, ids } in &golden[name] {
            assert_eq!(tokenizer.encode(text, false, false).unwrap(), *ids, "{name}: {text:?}");
            // A literal '▁' is a space to SentencePiece.
            let decoded = if name == "gemma3" { text.replace('▁', " ") } else { text.clone() };
            assert_eq!(tokenizer.decode(ids, true), decoded);
        }
    }
}

#[test]
fn reference_answers_are_written_with_the_same_tokens() {
    let golden = [include_str!("../golden/smollm2.json"), include_str!("../golden/gemma3.json")];
    for ((model, _), golden) in MODELS.into_iter().zip(golden) {
        let tokenizer = tokenizer(model);
        let answers: Answers = serde_json::from_str(golden).unwrap();
        assert!(!answers.items.is_empty());
        answers.items.iter().for_each(|answer| check_answer(&tokenizer, answer));
    }
}
