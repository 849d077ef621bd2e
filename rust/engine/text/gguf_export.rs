//! The tokenizer of a Hugging Face folder as the metadata of a GGUF file: the inverse of `hf_export`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::gguf_tokenizer::{TokenType, byte_of};
use super::pre_tokenizers::PreTokenizerKind;
use super::template_source;
use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::weights::Pairs;

/// Below every score that a piece has: of pieces that no merge makes.
const NEVER: f32 = -1e9;

/// Adds `tokenizer.*` to a file's metadata. The vocabulary is filled up to `vocab_size`, as the embedding table is.
pub fn write(folder: &Path, vocab_size: usize, pairs: &mut Pairs) -> Result<()> {
    let path = folder.join("tokenizer.json");
    let json = template_source::read_json(&path)?
        .ok_or_else(|| Error::unsupported(&path, "the folder has no tokenizer, which a GGUF file carries"))?;
    let config = template_source::read_json(&folder.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
    let export = Export { tokenizer: Tokenizer::from_dir(folder)?, path, json, config };
    export.write(vocab_size, pairs)?;
    if let Some(template) = template_source::of_dir(folder)? {
        pairs.text("tokenizer.chat_template", &template);
    }
    Ok(())
}

struct Export {
    path: PathBuf,
    /// tokenizer.json, and tokenizer_config.json or null.
    json: Value,
    config: Value,
    tokenizer: Tokenizer,
}

/// A token's text and what it is for.
#[derive(Clone)]
struct Entry {
    text: String,
    kind: TokenType,
}

impl Export {
    fn write(&self, vocab_size: usize, pairs: &mut Pairs) -> Result<()> {
        let sentence_piece = self.json["model"]["byte_fallback"].as_bool() == Some(true);
        let entries = self.entries(vocab_size, sentence_piece)?;
        let merges = self.merges()?;
        pairs.text("tokenizer.ggml.model", if sentence_piece { "llama" } else { "gpt2" });
        pairs.text("tokenizer.ggml.pre", if sentence_piece { "default" } else { self.pre_tokenizer()? });
        pairs.texts("tokenizer.ggml.tokens", entries.iter().map(|entry| entry.text.as_str()));
        pairs.i32s(
            "tokenizer.ggml.token_type",
            &entries.iter().map(|entry| i32::from(entry.kind.number())).collect::<Vec<_>>(),
        );
        match sentence_piece {
            true => {
                pairs.f32s("tokenizer.ggml.scores", &scores(&entries, &merges));
                pairs.flag("tokenizer.ggml.add_space_prefix", self.prepends_space());
            }
            false => {
                let lines: Vec<_> = merges.iter().map(|[left, right]| format!("{left} {right}")).collect();
                pairs.texts("tokenizer.ggml.merges", lines.iter().map(String::as_str));
            }
        }
        self.write_special(&entries, pairs);
        Ok(())
    }

    /// By id: the vocabulary, what is added to it, and names for ids that nothing has.
    fn entries(&self, vocab_size: usize, sentence_piece: bool) -> Result<Vec<Entry>> {
        let unnamed = |id| Entry { text: format!("[PAD{id}]"), kind: TokenType::Unused };
        let mut entries: Vec<Entry> = (0..vocab_size).map(unnamed).collect();
        let mut put = |id: Option<u64>, text: &str, kind: TokenType| {
            let place = id.and_then(|id| entries.get_mut(usize::try_from(id).ok()?));
            let beyond = || self.corrupt(format!("the token '{text}' has no id below {vocab_size}"));
            *place.ok_or_else(beyond)? = Entry { text: text.into(), kind };
            Ok(())
        };
        let unknown = self.json["model"]["unk_token"].as_str();
        for (text, id) in self.json["model"]["vocab"].as_object().into_iter().flatten() {
            let kind = match text {
                text if sentence_piece && byte_of(text).is_some() => TokenType::Byte,
                text if sentence_piece && unknown == Some(text) => TokenType::Unknown,
                _ => TokenType::Normal,
            };
            put(id.as_u64(), text, kind)?;
        }
        for token in self.json["added_tokens"].as_array().into_iter().flatten() {
            let text = token["content"].as_str().unwrap_or_default();
            let kind = match token["special"].as_bool() {
                Some(true) if sentence_piece && unknown == Some(text) => TokenType::Unknown,
                Some(true) => TokenType::Control,
                _ => TokenType::UserDefined,
            };
            put(token["id"].as_u64(), text, kind)?;
        }
        Ok(entries)
    }

    /// Pairs of pieces, in the order in which they merge.
    fn merges(&self) -> Result<Vec<[&str; 2]>> {
        let merges = self.json["model"]["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
        let read = merges.iter().map(|merge| pair(merge).ok_or_else(|| self.corrupt(format!("{merge} is no merge"))));
        read.collect()
    }

    /// The name under which llama.cpp and Ferrule know how a text is cut into words.
    fn pre_tokenizer(&self) -> Result<&'static str> {
        let mut patterns = Vec::new();
        self.cuts(&self.json["pre_tokenizer"], &mut patterns)?;
        let composes = match self.json["normalizer"]["type"].as_str() {
            None => false,
            Some("NFC") => true,
            Some(other) => return Err(self.unsupported(format!("its normalizer '{other}' has no name in GGUF files"))),
        };
        let whole_words = self.json["model"]["ignore_merges"].as_bool() == Some(true);
        PreTokenizerKind::name_of(&patterns, composes, whole_words).ok_or_else(|| {
            self.unsupported(format!("its pre-tokenizer has no name in GGUF files: it cuts at {}", patterns.join(", ")))
        })
    }

    /// The patterns of a pre-tokenizer's steps.
    fn cuts(&self, step: &Value, patterns: &mut Vec<String>) -> Result<()> {
        match step["type"].as_str() {
            Some("Sequence") => {
                let steps = step["pretokenizers"].as_array().into_iter().flatten();
                return steps.into_iter().try_for_each(|step| self.cuts(step, patterns));
            }
            Some("Split") if step["pattern"]["Regex"].is_string() => {
                patterns.extend(step["pattern"]["Regex"].as_str().map(str::to_owned));
            }
            Some("Digits") if step["individual_digits"].as_bool() == Some(true) => patterns.push(r"\p{N}".into()),
            Some("ByteLevel") if step["add_prefix_space"].as_bool() != Some(true) => {
                if step["use_regex"].as_bool() != Some(false) {
                    patterns.push(PreTokenizerKind::GPT2.into());
                }
            }
            other => {
                let name = other.unwrap_or("none");
                return Err(self.unsupported(format!("its pre-tokenizer '{name}' has no name in GGUF files")));
            }
        }
        Ok(())
    }

    /// Whether SentencePiece's '▁' is put before a text.
    fn prepends_space(&self) -> bool {
        let steps = |value: &Value, list: &str| match value[list].as_array() {
            Some(steps) => steps.clone(),
            None => vec![value.clone()],
        };
        let normalizers = steps(&self.json["normalizer"], "normalizers");
        let pre_tokenizers = steps(&self.json["pre_tokenizer"], "pretokenizers");
        normalizers.iter().any(|step| step["type"] == "Prepend")
            || pre_tokenizers.iter().any(|step| step["type"] == "Metaspace" && step["prepend_scheme"] != "never")
    }

    fn write_special(&self, entries: &[Entry], pairs: &mut Pairs) {
        let named = |name: &str| {
            let value = &self.config[name];
            let text = value.as_str().or_else(|| value["content"].as_str())?;
            entries.iter().position(|entry| entry.text == text)
        };
        let bos = self.tokenizer.bos.map(|id| id as usize);
        let eos = named("eos_token").or_else(|| self.tokenizer.eos.first().map(|&id| id as usize));
        for (key, id) in [("bos", bos), ("eos", eos), ("unknown", named("unk_token")), ("padding", named("pad_token"))]
        {
            if let Some(id) = id {
                pairs.u32(&format!("tokenizer.ggml.{key}_token_id"), id as u32);
            }
        }
        let surrounds = |tokens: &[TokenId]| !tokens.is_empty();
        pairs.flag("tokenizer.ggml.add_bos_token", surrounds(&self.tokenizer.prefix));
        pairs.flag("tokenizer.ggml.add_eos_token", surrounds(&self.tokenizer.suffix));
    }

    fn corrupt(&self, what: String) -> Error {
        Error::corrupt(&self.path, what)
    }

    fn unsupported(&self, what: String) -> Error {
        Error::unsupported(&self.path, what)
    }
}

/// The two ways of writing a merge.
fn pair(merge: &Value) -> Option<[&str; 2]> {
    match merge {
        Value::String(line) => line.split_once(' ').map(|(left, right)| [left, right]),
        Value::Array(parts) => Some([parts.first()?.as_str()?, parts.get(1)?.as_str()?]),
        _ => None,
    }
}

/// SentencePiece merges the pair whose whole has the best score: scores that fall as the ranks of merges rise.
fn scores(entries: &[Entry], merges: &[[&str; 2]]) -> Vec<f32> {
    let mut ranks = HashMap::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        ranks.entry(merge.concat()).or_insert(rank);
    }
    let score = |entry: &Entry| match (entry.kind, ranks.get(&entry.text)) {
        (TokenType::Normal, Some(&rank)) => -(rank as f32),
        (TokenType::Normal, None) => NEVER,
        _ => 0.0,
    };
    entries.iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::hf_export;
    use crate::weights::{Gguf, GgufWriter};

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../../tests/golden/text/tokenizers.json")).unwrap()
    }

    /// A file with this metadata, and no tensors.
    fn file(dir: &Path, pairs: &Pairs) -> Gguf {
        let path = dir.join("tokenizer.gguf");
        GgufWriter::create(&path, pairs, &[]).unwrap().finish().unwrap();
        Gguf::open(&path).unwrap()
    }

    fn pairs(metadata: &Value) -> Pairs {
        let mut pairs = Pairs::default();
        for (key, value) in metadata.as_object().unwrap() {
            match value {
                Value::String(text) => {
                    pairs.text(key, text);
                }
                Value::Bool(flag) => {
                    pairs.flag(key, *flag);
                }
                Value::Number(number) => {
                    pairs.u32(key, number.as_u64().unwrap() as u32);
                }
                Value::Array(items) if items[0].is_string() => {
                    pairs.texts(key, items.iter().map(|item| item.as_str().unwrap()));
                }
                Value::Array(items) if items[0].is_f64() => {
                    pairs.f32s(key, &items.iter().map(|item| item.as_f64().unwrap() as f32).collect::<Vec<_>>());
                }
                Value::Array(items) => {
                    pairs.i32s(key, &items.iter().map(|item| item.as_i64().unwrap() as i32).collect::<Vec<_>>());
                }
                other => panic!("{key} is {other}"),
            }
        }
        pairs
    }

    /// The tokenizer of the GGUF file that a folder becomes, with ids up to `vocab_size`.
    fn exported(folder: &Path, vocab_size: usize) -> Tokenizer {
        let mut pairs = Pairs::default();
        write(folder, vocab_size, &mut pairs).unwrap();
        Tokenizer::from_gguf(&file(folder, &pairs)).unwrap()
    }

    fn check(name: &Value, tokenizer: &Tokenizer, cases: &Value) {
        let encode = |text: &str, special| json!(tokenizer.encode(text, special, special).unwrap());
        for case in cases.as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            assert_eq!(encode(text, false), case["ids"], "{name}: {text:?}");
            if let Some(around) = case.get("around") {
                assert_eq!(encode(text, true), *around, "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn a_byte_level_folder_tokenizes_as_before() {
        let (golden, dir) = (&golden()["byte_level"], tempfile::tempdir().unwrap());
        let save = |name: &str, json: &Value| std::fs::write(dir.path().join(name), json.to_string()).unwrap();
        save("tokenizer.json", &golden["tokenizer_json"]);
        save("tokenizer_config.json", &json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}}));
        let kinds = golden["kinds"].as_array().unwrap();
        let kind = kinds.iter().find(|kind| kind["pre"] == golden["folder_kind"]).unwrap();
        let tokenizer = exported(dir.path(), 1000);
        check(&kind["pre"], &tokenizer, &kind["cases"]);
        assert_eq!((tokenizer.vocab_size(), tokenizer.bos(), tokenizer.eos()[0]), (1000, Some(3), 4));
    }

    /// Vocabularies of files, as folders and as files again.
    #[test]
    fn every_kind_tokenizes_as_its_folder() {
        let golden = golden();
        let mut cases: Vec<(Value, Value, Value)> = Vec::new();
        for case in golden["sentence_piece"].as_array().unwrap() {
            cases.push((case["name"].clone(), case["metadata"].clone(), case["cases"].clone()));
        }
        for kind in golden["byte_level"]["kinds"].as_array().unwrap() {
            let mut metadata = golden["byte_level"]["metadata"].clone();
            metadata["tokenizer.ggml.pre"] = kind["pre"].clone();
            cases.push((kind["pre"].clone(), metadata, kind["cases"].clone()));
        }
        for (name, metadata, cases) in cases {
            let dir = tempfile::tempdir().unwrap();
            let source = file(dir.path(), &pairs(&metadata));
            for (name, content) in hf_export::files(&source).unwrap() {
                std::fs::write(dir.path().join(name), content.to_string()).unwrap();
            }
            let num_tokens = metadata["tokenizer.ggml.tokens"].as_array().unwrap().len();
            let (file, folder) = (exported(dir.path(), num_tokens), Tokenizer::from_dir(dir.path()).unwrap());
            for case in cases.as_array().unwrap() {
                let text = case["text"].as_str().unwrap();
                let encode = |tokenizer: &Tokenizer| tokenizer.encode(text, false, false).unwrap();
                let found = encode(&file);
                // Folders put a space before what follows an added token, and know no unused pieces; files may do better.
                assert!(found == encode(&folder) || json!(found) == case["ids"], "{name}: {text:?} became {found:?}");
            }
        }
    }
}
