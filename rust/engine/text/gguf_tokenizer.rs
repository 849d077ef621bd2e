//! The tokenizer that a GGUF file carries under `tokenizer.ggml.*`.

use std::collections::HashSet;
use std::sync::Arc;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper};

use super::pieces::{PieceIndex, Pieces};
use super::pre_tokenizers::PreTokenizerKind;
use super::scored_bpe::ScoredBpe;
use super::segmenter::{Added, PieceModel, Segmenter};
use super::tokenizer::{END_OF_TURN_NAMES, Tokenizer, byte_level_bytes, spaced_bytes};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::weights::{Checkpoint, Gguf, Value};

/// `tokenizer.ggml.token_type`, with the format's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenType {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl TokenType {
    fn from_number(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Never part of what a user writes.
    fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control)
    }

    /// Cut out of the text before the model sees it.
    fn is_added(self) -> bool {
        self.is_special() || self == Self::UserDefined
    }
}

/// The metadata of one file, with errors that name file and key.
struct Metadata<'a> {
    gguf: &'a Gguf,
    tokens: &'a [String],
    types: Vec<TokenType>,
}

pub(super) fn load(gguf: &Gguf) -> Result<Tokenizer> {
    let unsupported = |what: String| Error::unsupported(gguf.path(), what);
    let Some(kind) = gguf.get("tokenizer.ggml.model") else {
        return Err(Error::corrupt(gguf.path(), "the key tokenizer.ggml.model is missing: the file has no tokenizer"));
    };
    match kind.as_str() {
        Some("gpt2") => Metadata::read(gguf)?.byte_level(),
        Some("llama") => Metadata::read(gguf)?.sentence_piece(),
        Some(other) => Err(unsupported(format!(
            "its tokenizer is of the kind '{other}' (tokenizer.ggml.model); Ferrule reads 'gpt2' and 'llama'"
        ))),
        None => Err(Error::corrupt(gguf.path(), "tokenizer.ggml.model is not a string")),
    }
}

impl<'a> Metadata<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self> {
        let mut metadata = Self { gguf, tokens: &[], types: Vec::new() };
        metadata.tokens = match gguf.get("tokenizer.ggml.tokens") {
            Some(Value::Strings(tokens)) if !tokens.is_empty() => tokens,
            _ => return Err(metadata.corrupt("tokenizer.ggml.tokens is not a list of at least one string")),
        };
        metadata.types = match metadata.per_token("token_type")? {
            Some(Value::Ints(types)) => types.iter().copied().map(TokenType::from_number).collect(),
            Some(_) => return Err(metadata.corrupt("tokenizer.ggml.token_type is not a list of integers")),
            None => vec![TokenType::Normal; metadata.tokens.len()],
        };
        Ok(metadata)
    }

    fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(self.gguf.path(), what)
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.gguf.get(&format!("tokenizer.ggml.{name}"))
    }

    fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// A list that has one element per token.
    fn per_token(&self, name: &str) -> Result<Option<&'a Value>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let len = match value {
            Value::Ints(list) => list.len(),
            Value::Floats(list) => list.len(),
            _ => return Err(self.corrupt(format!("tokenizer.ggml.{name} is not a list of numbers"))),
        };
        match len == self.tokens.len() {
            true => Ok(Some(value)),
            false => Err(self.corrupt(format!(
                "tokenizer.ggml.{name} has {len} elements, but there are {} tokens",
                self.tokens.len()
            ))),
        }
    }

    /// The token id under a key. Some writers leave -1 (or its unsigned twin) for "none".
    fn id(&self, name: &str) -> Result<Option<TokenId>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64() {
            Some(id) if (id as usize) < self.tokens.len() => Ok(Some(id as TokenId)),
            None if matches!(value, Value::I64(_)) => Ok(None),
            Some(id) if id == u64::from(u32::MAX) => Ok(None),
            _ => Err(self.corrupt(format!(
                "tokenizer.ggml.{name} is {value:?}, but the vocabulary has {} tokens",
                self.tokens.len()
            ))),
        }
    }

    fn ids(&self) -> impl Iterator<Item = (TokenId, &'a str, TokenType)> {
        (0..).zip(self.tokens).zip(&self.types).map(|((id, token), &kind)| (id, token.as_str(), kind))
    }

    /// Tokens that are cut out of the text, with `content` as they appear in it.
    fn added(&self, content: impl Fn(&str) -> String) -> Vec<Added> {
        let token = |(id, text, kind): (TokenId, &str, TokenType)| {
            (AddedToken::from(content(text), kind.is_special()).normalized(false), id)
        };
        self.ids().filter(|(_, text, kind)| kind.is_added() && !text.is_empty()).map(token).collect()
    }

    fn byte_level(&self) -> Result<Tokenizer> {
        let name = self.get("pre").and_then(Value::as_str).unwrap_or("default");
        let kind = PreTokenizerKind::named(name).ok_or_else(|| {
            Error::unsupported(
                self.gguf.path(),
                format!("its pre-tokenizer '{name}' (tokenizer.ggml.pre) is not one that Ferrule knows"),
            )
        })?;
        let pre_tokenizer =
            kind.pre_tokenizer().map_err(|e| Error::Internal(format!("pre-tokenizer '{name}': {e}")))?;
        let model = PieceModel::Merges(Box::new(self.merges(kind.ignore_merges)?.into()));
        let segmenter = Segmenter::new(kind.normalizer(), Some(pre_tokenizer), model, &self.added(str::to_owned));
        let mut pieces = Pieces::with_capacity(self.tokens.len());
        for (_, text, kind) in self.ids() {
            pieces.push_with(|bytes| match kind.is_added() {
                true => bytes.extend_from_slice(text.as_bytes()),
                false => byte_level_bytes(text, bytes),
            });
        }
        self.finish(segmenter, Arc::new(pieces), kind.add_bos, false)
    }

    /// Byte-level BPE over the tokens that text may become.
    fn merges(&self, ignore_merges: bool) -> Result<BPE> {
        let Some(Value::Strings(merges)) = self.get("merges") else {
            return Err(self.corrupt("tokenizer.ggml.merges is not a list of strings"));
        };
        let pair = |merge: &String| {
            let (left, right) = merge.split_once(' ').ok_or_else(|| {
                self.corrupt(format!("tokenizer.ggml.merges has '{merge}', which is not two pieces and a space"))
            })?;
            Ok((left.to_owned(), right.to_owned()))
        };
        let merges = merges.iter().map(pair).collect::<Result<Vec<_>>>()?;
        let words = self.ids().filter(|(_, _, kind)| !kind.is_added());
        let vocab: tokenizers::models::bpe::Vocab = words.map(|(id, text, _)| (text.to_owned(), id)).collect();
        BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(ignore_merges)
            .build()
            .map_err(|e| self.corrupt(format!("tokenizer.ggml.merges does not fit tokenizer.ggml.tokens: {e}")))
    }

    fn sentence_piece(&self) -> Result<Tokenizer> {
        let scores = match self.per_token("scores")? {
            Some(Value::Floats(scores)) => scores.clone(),
            Some(Value::Ints(scores)) => scores.iter().map(|&s| s as f32).collect(),
            _ => return Err(self.corrupt("tokenizer.ggml.scores is missing: a 'llama' tokenizer needs it")),
        };
        let mut pieces = Pieces::with_capacity(self.tokens.len());
        for (_, text, kind) in self.ids() {
            match byte_of(text).filter(|_| kind == TokenType::Byte) {
                Some(byte) => pieces.push(&[byte]),
                None => pieces.push_with(|bytes| spaced_bytes(text, bytes)),
            }
        }
        let pieces = Arc::new(pieces);
        let model = ScoredBpe {
            index: self.index(&pieces),
            scores,
            unused: self.ids().filter(|(.., kind)| *kind == TokenType::Unused).map(|(id, ..)| id).collect(),
            bytes: self.byte_tokens(),
            unknown: self.id("unknown_token_id")?,
            pieces: pieces.clone(),
        };
        let prefix = self.flag("add_space_prefix", true);
        let added = self.added(|text| text.replace('▁', " "));
        let segmenter = Segmenter::new(Some(spaces(prefix)?), None, PieceModel::Scores(model), &added);
        self.finish(segmenter, pieces, true, prefix)
    }

    /// Only what text may become: control tokens and bytes are never spelled out.
    fn index(&self, pieces: &Pieces) -> PieceIndex {
        let mut index = PieceIndex::with_capacity(self.tokens.len());
        for (id, text, kind) in self.ids() {
            if !text.is_empty() && !kind.is_special() && kind != TokenType::Byte {
                index.insert(pieces, id);
            }
        }
        index
    }

    /// None unless all 256 are there.
    fn byte_tokens(&self) -> Option<Box<[TokenId; 256]>> {
        let mut tokens = [None; 256];
        for (id, text, kind) in self.ids() {
            if let Some(byte) = byte_of(text).filter(|_| kind == TokenType::Byte) {
                tokens[usize::from(byte)] = Some(id);
            }
        }
        let tokens: Vec<TokenId> = tokens.into_iter().collect::<Option<_>>()?;
        tokens.into_boxed_slice().try_into().ok()
    }

    fn finish(
        &self,
        segmenter: Segmenter,
        pieces: Arc<Pieces>,
        add_bos: bool,
        trim_leading_space: bool,
    ) -> Result<Tokenizer> {
        let bos = self.id("bos_token_id")?;
        let eos = self.id("eos_token_id")?;
        Ok(Tokenizer {
            segmenter,
            pieces,
            special: self.ids().filter(|(.., kind)| kind.is_special()).map(|(id, ..)| id).collect(),
            prefix: bos.into_iter().filter(|_| self.flag("add_bos_token", add_bos)).collect(),
            suffix: eos.into_iter().filter(|_| self.flag("add_eos_token", false)).collect(),
            bos,
            eos: self.ends(eos)?,
            trim_leading_space,
        })
    }

    /// Every token that ends a text or a turn, by its key or by its name.
    fn ends(&self, eos: Option<TokenId>) -> Result<Vec<TokenId>> {
        let mut ends = Vec::from_iter(eos);
        for name in ["eot_token_id", "eom_token_id"] {
            ends.extend(self.id(name)?);
        }
        let named = self.ids().filter(|(_, text, kind)| kind.is_special() && END_OF_TURN_NAMES.contains(text));
        ends.extend(named.map(|(id, ..)| id));
        let mut seen = HashSet::new();
        ends.retain(|id| seen.insert(*id));
        Ok(ends)
    }
}

/// Text as `ScoredBpe` looks it up: pieces are kept with real spaces, so '▁' becomes one.
fn spaces(prefix: bool) -> Result<NormalizerWrapper> {
    let replace = Replace::new("▁", " ").map_err(|e| Error::Internal(format!("the space normalizer: {e}")))?;
    let mut steps: Vec<NormalizerWrapper> = vec![replace.into()];
    if prefix {
        steps.insert(0, Prepend::new(" ".into()).into());
    }
    Ok(Sequence::new(steps).into())
}

/// The byte that `<0x0A>` names.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}
