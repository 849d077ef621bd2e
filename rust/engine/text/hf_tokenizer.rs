//! The tokenizer of a Hugging Face folder.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::IgnoredAny;
use serde_json::Value;
use tokenizers::{AddedToken, DecoderWrapper, Encoding, ModelWrapper, PostProcessor, Token};

use super::gguf_tokenizer::byte_of;
use super::pieces::Pieces;
use super::segmenter::{AddedTokens, PieceModel, Segmenter, Steps};
use super::tokenizer::{END_OF_TURN_NAMES, Tokenizer, byte_level_bytes, spaced_bytes};
use crate::error::{Error, Result};
use crate::ids::TokenId;

/// How tokens spell text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    ByteLevel,
    /// '▁' is a space and `<0x0A>` a byte.
    SentencePiece {
        trim_leading_space: bool,
    },
}

/// A folder's files on their way to a tokenizer.
struct Folder {
    path: PathBuf,
    tokenizer: tokenizers::Tokenizer,
    /// tokenizer_config.json, or null.
    config: Value,
    /// (id, text), by id.
    vocabulary: Vec<(TokenId, String)>,
    added: Vec<(AddedToken, TokenId)>,
}

pub(super) fn load(dir: &Path) -> Result<Tokenizer> {
    let folder = Folder::read(dir)?;
    let spelling = folder.spelling()?;
    let (prefix, suffix) = folder.surroundings()?;
    let special: HashSet<TokenId> = folder.added.iter().filter(|(t, _)| t.special).map(|&(_, id)| id).collect();
    Ok(Tokenizer {
        pieces: Arc::new(folder.pieces(spelling)),
        special,
        prefix,
        suffix,
        bos: folder.configured("bos_token"),
        eos: folder.ends(dir)?,
        trim_leading_space: spelling == Spelling::SentencePiece { trim_leading_space: true },
        segmenter: folder.into_segmenter(),
    })
}

/// A JSON file of the folder; null where there is none.
fn read_json(path: &Path) -> Result<Value> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::corrupt(path, format!("not valid JSON: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(e) => Err(Error::io(path, e)),
    }
}

/// Runs a part of the library that panics on some broken files.
fn guarded<T>(path: &Path, work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let corrupt = |what: String| Error::corrupt(path, format!("not a tokenizer that can be read: {what}"));
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| corrupt(e.to_string())),
        Err(_) => Err(corrupt("a part of it contradicts another".into())),
    }
}

impl Folder {
    fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("tokenizer.json");
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::ModelNotFound(format!(
                    "{} is missing: the folder has no tokenizer",
                    path.display()
                )));
            }
            bytes => bytes.map_err(|e| Error::io(&path, e))?,
        };
        serde_json::from_slice::<IgnoredAny>(&bytes)
            .map_err(|e| Error::corrupt(&path, format!("not valid JSON: {e}")))?;
        let tokenizer = guarded(&path, || tokenizers::Tokenizer::from_bytes(bytes))?;
        let mut vocabulary: Vec<_> = tokenizer.get_vocab(true).into_iter().map(|(text, id)| (id, text)).collect();
        vocabulary.sort_unstable();
        let mut added: Vec<_> = tokenizer.get_added_tokens_decoder().into_iter().map(|(id, t)| (t, id)).collect();
        added.sort_unstable_by_key(|&(_, id)| id);
        let config = read_json(&dir.join("tokenizer_config.json"))?;
        let folder = Self { path, tokenizer, config, vocabulary, added };
        folder.check()?;
        Ok(folder)
    }

    fn check(&self) -> Result<()> {
        /// Ids beyond this are a broken file: no vocabulary comes near.
        const MAX_ID: TokenId = 1 << 24;
        let kind = match self.tokenizer.get_model() {
            ModelWrapper::BPE(_) => None,
            ModelWrapper::WordPiece(_) => Some("WordPiece"),
            ModelWrapper::WordLevel(_) => Some("WordLevel"),
            ModelWrapper::Unigram(_) => Some("Unigram"),
        };
        match (kind, self.vocabulary.last()) {
            (Some(kind), _) => {
                Err(Error::unsupported(&self.path, format!("its model is {kind}; Ferrule reads BPE tokenizers")))
            }
            (None, Some(&(id, _))) if id < MAX_ID => Ok(()),
            (None, Some(&(id, _))) => {
                Err(Error::corrupt(&self.path, format!("token id {id} is beyond any vocabulary")))
            }
            (None, None) => Err(Error::corrupt(&self.path, "the vocabulary is empty")),
        }
    }

    fn spelling(&self) -> Result<Spelling> {
        let mut steps = Vec::new();
        if let Some(decoder) = self.tokenizer.get_decoder() {
            flatten(decoder, &mut steps);
        }
        let mut spelling = None;
        for step in steps {
            let found = match step {
                DecoderWrapper::ByteLevel(_) => Spelling::ByteLevel,
                DecoderWrapper::Metaspace(m) => Spelling::SentencePiece {
                    trim_leading_space: m.prepend_scheme != tokenizers::pre_tokenizers::metaspace::PrependScheme::Never,
                },
                DecoderWrapper::Strip(s) if (s.content, s.start, s.stop) == (' ', 1, 0) => {
                    Spelling::SentencePiece { trim_leading_space: true }
                }
                DecoderWrapper::ByteFallback(_) | DecoderWrapper::Fuse(_) | DecoderWrapper::Replace(_) => {
                    spelling.unwrap_or(Spelling::SentencePiece { trim_leading_space: false })
                }
                _ => return Err(self.unknown_decoder(step)),
            };
            spelling = Some(found);
        }
        spelling.ok_or_else(|| Error::unsupported(&self.path, "it has no decoder, so that tokens have no text"))
    }

    fn unknown_decoder(&self, decoder: &DecoderWrapper) -> Error {
        let json = serde_json::to_value(decoder).unwrap_or_default();
        let name = json["type"].as_str().unwrap_or("?");
        Error::unsupported(&self.path, format!("its decoder '{name}' is not one that Ferrule knows"))
    }

    fn pieces(&self, spelling: Spelling) -> Pieces {
        let added: HashSet<TokenId> = self.added.iter().map(|&(_, id)| id).collect();
        let mut pieces = Pieces::with_capacity(self.vocabulary.len());
        for (id, text) in &self.vocabulary {
            while pieces.len() < *id as usize {
                pieces.push(&[]);
            }
            if pieces.len() == *id as usize {
                pieces.push_with(|bytes| match (spelling, byte_of(text)) {
                    (Spelling::ByteLevel, _) if added.contains(id) => bytes.extend_from_slice(text.as_bytes()),
                    (Spelling::ByteLevel, _) => byte_level_bytes(text, bytes),
                    (Spelling::SentencePiece { .. }, Some(byte)) => bytes.push(byte),
                    (Spelling::SentencePiece { .. }, None) => spaced_bytes(text, bytes),
                });
            }
        }
        pieces
    }

    /// What the post-processor puts around a text, found by giving it one mark.
    fn surroundings(&self) -> Result<(Vec<TokenId>, Vec<TokenId>)> {
        const MARK: TokenId = TokenId::MAX;
        let mut ids = vec![MARK];
        if let Some(post_processor) = self.tokenizer.get_post_processor() {
            let text = Encoding::from_tokens(vec![Token::new(MARK, String::new(), (0, 0))], 0);
            let around = guarded(&self.path, || post_processor.process(text, None, true))?;
            ids = around.get_ids().to_vec();
        }
        let Some(at) = ids.iter().position(|&id| id == MARK) else {
            return Err(Error::corrupt(&self.path, "its post-processor loses the text"));
        };
        let around = |name, found: &[TokenId], token| match self.config[name].as_bool() {
            Some(false) => Vec::new(),
            Some(true) if found.is_empty() => Vec::from_iter(self.configured(token)),
            _ => found.to_vec(),
        };
        Ok((around("add_bos_token", &ids[..at], "bos_token"), around("add_eos_token", &ids[at + 1..], "eos_token")))
    }

    /// The id of a token that tokenizer_config.json names, as a string or as an object with its content.
    fn configured(&self, name: &str) -> Option<TokenId> {
        let value = &self.config[name];
        self.tokenizer.token_to_id(value.as_str().or_else(|| value["content"].as_str())?)
    }

    /// Every token that ends a text or a turn: what the configuration files say, and known names.
    fn ends(&self, dir: &Path) -> Result<Vec<TokenId>> {
        let mut ends = Vec::from_iter(self.configured("eos_token"));
        for name in ["generation_config.json", "config.json"] {
            let eos = &read_json(&dir.join(name))?["eos_token_id"];
            let list = eos.as_array().map_or(std::slice::from_ref(eos), Vec::as_slice);
            ends.extend(list.iter().filter_map(Value::as_u64).filter_map(|id| TokenId::try_from(id).ok()));
        }
        let is_end = |token: &AddedToken| token.special && END_OF_TURN_NAMES.contains(&token.content.as_str());
        ends.extend(self.added.iter().filter(|(token, _)| is_end(token)).map(|&(_, id)| id));
        let mut seen = HashSet::new();
        ends.retain(|id| seen.insert(*id));
        Ok(ends)
    }

    fn into_segmenter(self) -> Segmenter {
        let steps = Steps {
            normalizer: self.tokenizer.get_normalizer().cloned(),
            pre_tokenizer: self.tokenizer.get_pre_tokenizer().cloned(),
            model: PieceModel::Json(Box::new(self.tokenizer.get_model().clone())),
        };
        Segmenter::new(steps, &AddedTokens { tokens: self.added, normalize: true })
    }
}

/// The steps of a decoder, sequences opened.
fn flatten<'a>(decoder: &'a DecoderWrapper, steps: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().for_each(|d| flatten(d, steps)),
        step => steps.push(step),
    }
}
