//! The tokenizer that a GGUF file carries under `tokenizer.ggml.*`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper};

use super::bpe::{Bpe, MergeRule, Merges, Ranks, Scores};
use super::pieces::{PieceIndex, Pieces};
use super::pre_tokenizers::PreTokenizerKind;
use super::segmenter::{AddedTokens, PieceModel, Segmenter, Steps};
use super::tokenizer::{END_OF_TURN_NAMES, Tokenizer, byte_level_bytes, spaced_bytes};
use crate::error::{Error, Result};
use crate::ids::TokenId;
use crate::weights::{Checkpoint, Gguf, Strings, Value};

/// Most threads that look up merges.
const MERGE_THREADS: usize = 4;

/// Merges that a thread looks up before it takes more.
const MERGES_AT_ONCE: usize = 1024;

/// `tokenizer.ggml.token_type`, with the format's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
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

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }

    /// Never part of what a user writes.
    pub(super) fn is_special(self) -> bool {
        matches!(self, Self::Unknown | Self::Control)
    }

    /// Cut out of the text before the model sees it.
    pub(super) fn is_added(self) -> bool {
        self.is_special() || self == Self::UserDefined
    }
}

/// The metadata of one file, with errors that name file and key.
pub(super) struct Metadata<'a> {
    gguf: &'a Gguf,
    tokens: &'a Strings,
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
    pub(super) fn read(gguf: &'a Gguf) -> Result<Self> {
        let tokens = match gguf.get("tokenizer.ggml.tokens") {
            Some(Value::Strings(tokens)) if !tokens.is_empty() => tokens,
            _ => {
                let what = "tokenizer.ggml.tokens is not a list of at least one string";
                return Err(Error::corrupt(gguf.path(), what));
            }
        };
        let mut metadata = Self { gguf, tokens, types: Vec::new() };
        metadata.types = match metadata.per_token("token_type")? {
            Some(Value::Ints(types)) => types.iter().copied().map(TokenType::from_number).collect(),
            Some(_) => return Err(metadata.corrupt("tokenizer.ggml.token_type is not a list of integers")),
            None => vec![TokenType::Normal; metadata.tokens.len()],
        };
        Ok(metadata)
    }

    pub(super) fn corrupt(&self, what: impl Into<String>) -> Error {
        Error::corrupt(self.gguf.path(), what)
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.gguf.get(&format!("tokenizer.ggml.{name}"))
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
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
    pub(super) fn id(&self, name: &str) -> Result<Option<TokenId>> {
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

    pub(super) fn ids(&self) -> impl Iterator<Item = (TokenId, &'a str, TokenType)> {
        (0..).zip(self.tokens.iter()).zip(&self.types).map(|((id, token), &kind)| (id, token, kind))
    }

    /// Tokens that are cut out of a text.
    fn added(&self, written: impl Fn(&str, TokenType) -> AddedToken) -> AddedTokens {
        let rstrip = self.strips_after_special();
        let cut_out = self.ids().filter(|(_, text, kind)| kind.is_added() && !text.is_empty());
        let tokens = cut_out.map(|(id, text, kind)| (written(text, kind).rstrip(rstrip && kind.is_special()), id));
        AddedTokens { tokens: tokens.collect(), normalize: false }
    }

    /// Phi-3's special tokens swallow the white space after them, which the format has no key for.
    pub(super) fn strips_after_special(&self) -> bool {
        let name = self.gguf.get("general.name").and_then(Value::as_str).unwrap_or_default().to_lowercase();
        name.contains("phi-3") || name.contains("phi3")
    }

    pub(super) fn gguf(&self) -> &'a Gguf {
        self.gguf
    }

    pub(super) fn text(&self, id: TokenId) -> &'a str {
        self.tokens.get(id as usize).unwrap_or_default()
    }

    pub(super) fn pre_tokenizer_kind(&self) -> Result<PreTokenizerKind> {
        let name = self.get("pre").and_then(Value::as_str).unwrap_or("default");
        PreTokenizerKind::named(name).ok_or_else(|| {
            Error::unsupported(
                self.gguf.path(),
                format!("its pre-tokenizer '{name}' (tokenizer.ggml.pre) is not one that Ferrule knows"),
            )
        })
    }

    fn byte_level(&self) -> Result<Tokenizer> {
        let kind = self.pre_tokenizer_kind()?;
        let pre_tokenizer = kind.pre_tokenizer().map_err(|e| Error::Internal(format!("the pre-tokenizer: {e}")))?;
        let mut pieces = Pieces::with_capacity(self.tokens.len());
        for (_, text, kind) in self.ids() {
            pieces.push_with(|bytes| match kind.is_added() {
                true => bytes.extend_from_slice(text.as_bytes()),
                false => byte_level_bytes(text, bytes),
            });
        }
        let pieces = Arc::new(pieces);
        let index = self.index(&pieces, TokenType::is_added);
        let merges = self.merges(&pieces, &index)?;
        let rule = MergeRule::Ranks(Ranks { merges, ignore_merges: kind.ignore_merges });
        let model = PieceModel::Bpe(Bpe { pieces: pieces.clone(), index, rule });
        let added = self.added(|text, kind| AddedToken::from(text, kind.is_special()).normalized(false));
        let steps = Steps { normalizer: kind.normalizer(), pre_tokenizer: Some(pre_tokenizer), model };
        let segmenter = Segmenter::new(steps, &added);
        self.finish(segmenter, pieces, kind.add_bos, false)
    }

    /// The pairs that merge, from lines such as "Ġt he".
    fn merges(&self, pieces: &Pieces, index: &PieceIndex) -> Result<Merges> {
        let Some(Value::Strings(lines)) = self.get("merges") else {
            return Err(self.corrupt("tokenizer.ggml.merges is not a list of strings"));
        };
        let mut merges = Merges::with_capacity_and_hasher(lines.len(), RandomState::default());
        for (rank, merge) in (0..).zip(look_up(lines, pieces, index)) {
            let Some((pair, merged)) = merge else {
                let line = lines.get(rank as usize).unwrap_or_default();
                return Err(self.corrupt(format!("tokenizer.ggml.merges has '{line}', which is not two known pieces")));
            };
            merges.entry(pair).or_insert((rank, merged));
        }
        Ok(merges)
    }

    /// Of SentencePiece's pieces, one per token.
    pub(super) fn scores(&self) -> Result<Vec<f32>> {
        match self.per_token("scores")? {
            Some(Value::Floats(scores)) => Ok(scores.clone()),
            Some(Value::Ints(scores)) => Ok(scores.iter().map(|&s| s as f32).collect()),
            _ => Err(self.corrupt("tokenizer.ggml.scores is missing: a 'llama' tokenizer needs it")),
        }
    }

    fn sentence_piece(&self) -> Result<Tokenizer> {
        let scores = self.scores()?;
        let mut pieces = Pieces::with_capacity(self.tokens.len());
        for (_, text, kind) in self.ids() {
            match byte_of(text).filter(|_| kind == TokenType::Byte) {
                Some(byte) => pieces.push(&[byte]),
                None => pieces.push_with(|bytes| spaced_bytes(text, bytes)),
            }
        }
        let pieces = Arc::new(pieces);
        let never_spelled = |kind: TokenType| kind.is_special() || kind == TokenType::Byte;
        let scores = Scores {
            scores,
            unused: self.ids().filter(|(.., kind)| *kind == TokenType::Unused).map(|(id, ..)| id).collect(),
            bytes: self.byte_tokens(),
            unknown: self.id("unknown_token_id")?,
        };
        let model =
            Bpe { index: self.index(&pieces, never_spelled), pieces: pieces.clone(), rule: MergeRule::Scores(scores) };
        let prefix = self.flag("add_space_prefix", true);
        // User-defined pieces are part of the text that gets the space in front; special tokens are not.
        let added = self.added(|text, kind| {
            AddedToken::from(text.replace('▁', " "), kind.is_special()).normalized(!kind.is_special())
        });
        let steps = Steps { normalizer: Some(spaces(prefix)?), pre_tokenizer: None, model: PieceModel::Bpe(model) };
        let segmenter = Segmenter::new(steps, &added);
        self.finish(segmenter, pieces, true, prefix)
    }

    /// The pieces that text may become: all but those that are `excluded`.
    fn index(&self, pieces: &Pieces, excluded: impl Fn(TokenType) -> bool) -> PieceIndex {
        let mut index = PieceIndex::with_capacity(self.tokens.len());
        for (id, text, kind) in self.ids() {
            if !text.is_empty() && !excluded(kind) {
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

/// A pair, and both together.
type Merge = ((TokenId, TokenId), TokenId);

/// What each line of merges says, by all threads that are free: a start waits for it. None: not two known pieces that are one
/// together.
fn look_up(lines: &Strings, pieces: &Pieces, index: &PieceIndex) -> Vec<Option<Merge>> {
    let mut merges = vec![None; lines.len()];
    let parts = Mutex::new(merges.chunks_mut(MERGES_AT_ONCE).enumerate());
    let work = || {
        let mut bytes = Vec::new();
        let mut find = |(left, right): (&str, &str)| {
            bytes.clear();
            byte_level_bytes(left, &mut bytes);
            let middle = bytes.len();
            byte_level_bytes(right, &mut bytes);
            let (left, right) = bytes.split_at(middle);
            Some(((index.get(pieces, left)?, index.get(pieces, right)?), index.get(pieces, &bytes)?))
        };
        let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some((part, merges)) = next() {
            for (i, merge) in merges.iter_mut().enumerate() {
                let line = lines.get(part * MERGES_AT_ONCE + i);
                *merge = line.and_then(|line| line.split_once(' ')).and_then(&mut find);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().min(MERGE_THREADS));
    std::thread::scope(|scope| {
        // Where the system refuses more threads, there are fewer.
        (1..threads).for_each(|_| drop(std::thread::Builder::new().spawn_scoped(scope, work)));
        work();
    });
    merges
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
