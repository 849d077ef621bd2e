//! Text to token ids: added tokens are cut out, the rest is normalized, pre-tokenized and given to the model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tokenizers::models::ModelWrapper;
use tokenizers::models::bpe::BpeTrainer;
use tokenizers::{
    AddedToken, AddedVocabulary, Model, NormalizerWrapper, OffsetType, PreTokenizer, PreTokenizerWrapper, Token,
};

use super::bpe::Bpe;
use crate::error::{Error, Result};
use crate::ids::TokenId;

/// Longest run of white space. The regular expressions of pre-tokenizers look ahead after it, and give up without a
/// word where that takes them a million steps.
const MAX_WHITE_SPACE: usize = 500_000;

/// The way from text to ids, without the special tokens around it.
#[derive(Debug)]
pub(super) struct Segmenter {
    normalizer: Option<NormalizerWrapper>,
    pre_tokenizer: Option<PreTokenizerWrapper>,
    model: Vocabulary,
    /// Special tokens in a text are tokens.
    with_special: AddedVocabulary,
    /// Special tokens in a text are text.
    without_special: AddedVocabulary,
}

/// How the pieces of text between added tokens become ids.
#[derive(Debug)]
pub(super) enum PieceModel {
    /// What tokenizer.json describes.
    Json(Box<ModelWrapper>),
    Bpe(Bpe),
}

/// The steps between added tokens, in order.
#[derive(Debug)]
pub(super) struct Steps {
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(super) model: PieceModel,
}

/// Tokens that are cut out of a text.
#[derive(Debug)]
pub(super) struct AddedTokens {
    pub(super) tokens: Vec<(AddedToken, TokenId)>,
    /// Those that are found in the normalized text are written here as they come, before the normalizer.
    pub(super) normalize: bool,
}

impl Segmenter {
    pub(super) fn new(steps: Steps, added: &AddedTokens) -> Self {
        let Steps { normalizer, pre_tokenizer, model } = steps;
        let ids = added.tokens.iter().map(|(token, id)| (token.content.clone(), *id)).collect();
        let model = Vocabulary { model, added: ids };
        let vocabulary = |special: bool| {
            let wanted = added.tokens.iter().map(|(token, _)| token).filter(|token| special || !token.special);
            let tokens: Vec<AddedToken> = wanted.cloned().collect();
            let mut vocabulary = AddedVocabulary::new();
            vocabulary.add_tokens(&tokens, &model, normalizer.as_ref().filter(|_| added.normalize));
            vocabulary
        };
        Self { with_special: vocabulary(true), without_special: vocabulary(false), normalizer, pre_tokenizer, model }
    }

    pub(super) fn encode(&self, text: &str, parse_special: bool) -> Result<Vec<TokenId>> {
        self.check(text)?;
        let added = if parse_special { &self.with_special } else { &self.without_special };
        let mut parts = added.extract_and_normalize(self.normalizer.as_ref(), text);
        let encoding = self
            .pre_tokenizer
            .iter()
            .try_for_each(|p| p.pre_tokenize(&mut parts))
            .and_then(|()| parts.tokenize(|part| self.model.tokenize(part.get())))
            .and_then(|()| parts.into_encoding(None, 0, OffsetType::None))
            .map_err(|e| Error::Internal(format!("the tokenizer failed on a text of {} bytes: {e}", text.len())))?;
        Ok(encoding.get_ids().to_vec())
    }

    fn check(&self, text: &str) -> Result<()> {
        let runs = text.split(|c: char| !c.is_whitespace()).map(|run| run.chars().count());
        match runs.max() {
            Some(longest) if longest > MAX_WHITE_SPACE && self.pre_tokenizer.is_some() => {
                Err(Error::InvalidRequest(format!(
                    "the text has a run of {longest} white-space characters; at most {MAX_WHITE_SPACE} are tokenized"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// What `AddedVocabulary` asks a model for: the ids of the added tokens.
#[derive(Debug)]
struct Vocabulary {
    model: PieceModel,
    added: HashMap<String, TokenId>,
}

impl Model for Vocabulary {
    type Trainer = BpeTrainer;

    fn tokenize(&self, text: &str) -> tokenizers::Result<Vec<Token>> {
        match &self.model {
            PieceModel::Json(model) => model.tokenize(text),
            PieceModel::Bpe(model) => {
                Ok(model.tokenize(text).into_iter().map(|id| Token::new(id, String::new(), (0, 0))).collect())
            }
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.added.get(token).copied()
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.added.iter().find(|&(_, &added)| added == id).map(|(token, _)| token.clone())
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.added.clone()
    }

    fn get_vocab_size(&self) -> usize {
        self.added.len()
    }

    fn save(&self, _folder: &Path, _prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        Err("a tokenizer that was read from a model is not written".into())
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}
