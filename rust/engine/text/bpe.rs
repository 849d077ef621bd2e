//! Byte-pair encoding over the bytes of a vocabulary, with either of the two ways to say which merge comes first.
//! Sources: Sennrich et al. 2016 and GPT-2 (ranked merges); Kudo and Richardson 2018, SentencePiece (scored pieces).

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::pieces::{PieceIndex, Pieces};
use crate::ids::TokenId;

#[derive(Debug)]
pub(super) struct Bpe {
    pub(super) pieces: Arc<Pieces>,
    /// The pieces that text may become.
    pub(super) index: PieceIndex,
    pub(super) rule: MergeRule,
}

/// (left, right) → (rank, both together)
pub(super) type Merges = HashMap<(TokenId, TokenId), (u32, TokenId), RandomState>;

#[derive(Debug)]
pub(super) enum MergeRule {
    Ranks(Ranks),
    Scores(Scores),
}

/// A text starts as bytes, and a list says which pairs merge: the earliest in the list first.
#[derive(Debug)]
pub(super) struct Ranks {
    pub(super) merges: Merges,
    /// A text that is a piece as a whole is that piece, whatever the merges say.
    pub(super) ignore_merges: bool,
}

/// A text starts as characters, and all neighbours that are a piece together merge: the best scored first.
/// Nothing has to be derived when such a vocabulary is loaded.
#[derive(Debug)]
pub(super) struct Scores {
    /// (num_tokens,)
    pub(super) scores: Vec<f32>,
    /// Pieces that merges pass through but that are never a result.
    pub(super) unused: HashSet<TokenId>,
    /// The tokens of single bytes, for characters outside the vocabulary.
    pub(super) bytes: Option<Box<[TokenId; 256]>>,
    pub(super) unknown: Option<TokenId>,
}

impl Bpe {
    pub(super) fn tokenize(&self, text: &str) -> Vec<TokenId> {
        if let (MergeRule::Ranks(Ranks { ignore_merges: true, .. }), Some(id)) =
            (&self.rule, self.find(text.as_bytes()))
        {
            return vec![id];
        }
        let mut merging = Merging::new(self, text);
        merging.run();
        merging.tokens()
    }

    fn find(&self, piece: &[u8]) -> Option<TokenId> {
        self.index.get(&self.pieces, piece)
    }
}

/// A run of bytes that is one piece, or one character or byte that is none; linked to its neighbours.
#[derive(Debug, Clone, Copy)]
struct Symbol {
    start: usize,
    /// 0 once it was merged into its left neighbour.
    len: usize,
    id: Option<TokenId>,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that may become one.
struct Merge {
    /// Highest first: a score, or a rank below zero.
    priority: f64,
    left: usize,
    right: usize,
    /// Of both together: a symbol that grew since makes this merge stale.
    len: usize,
    id: TokenId,
}

impl Ord for Merge {
    /// Of equal priorities, the one further left comes first.
    fn cmp(&self, other: &Self) -> Ordering {
        self.priority.total_cmp(&other.priority).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Merge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Merge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Merge {}

/// A text on its way to pieces.
struct Merging<'a> {
    bpe: &'a Bpe,
    text: &'a [u8],
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Merge>,
    /// Where each unused piece was put together.
    split_at: HashMap<TokenId, usize>,
}

impl<'a> Merging<'a> {
    fn new(bpe: &'a Bpe, text: &'a str) -> Self {
        let mut merging = Self {
            bpe,
            text: text.as_bytes(),
            symbols: Vec::new(),
            queue: BinaryHeap::new(),
            split_at: HashMap::new(),
        };
        match bpe.rule {
            MergeRule::Ranks(_) => (0..text.len()).for_each(|start| merging.push(start, 1)),
            MergeRule::Scores(_) => text.char_indices().for_each(|(start, c)| merging.push(start, c.len_utf8())),
        }
        if let Some(last) = merging.symbols.last_mut() {
            last.next = None;
        }
        merging
    }

    fn push(&mut self, start: usize, len: usize) {
        let at = self.symbols.len();
        let id = self.bpe.find(&self.text[start..start + len]);
        self.symbols.push(Symbol { start, len, id, previous: at.checked_sub(1), next: Some(at + 1) });
    }

    fn run(&mut self) {
        for right in 1..self.symbols.len() {
            self.offer(Some(right - 1), Some(right));
        }
        while let Some(merge) = self.queue.pop() {
            self.apply(&merge);
        }
    }

    /// Queues the merge of two neighbours, if they may merge.
    fn offer(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let len = self.symbols[left].len + self.symbols[right].len;
        if let Some((priority, id)) = self.merged(self.symbols[left], self.symbols[right]) {
            self.queue.push(Merge { priority, left, right, len, id });
        }
    }

    fn merged(&mut self, left: Symbol, right: Symbol) -> Option<(f64, TokenId)> {
        match &self.bpe.rule {
            MergeRule::Ranks(ranks) => {
                ranks.merges.get(&(left.id?, right.id?)).map(|&(rank, id)| (-f64::from(rank), id))
            }
            MergeRule::Scores(scores) => {
                let id = self.bpe.find(&self.text[left.start..right.start + right.len])?;
                if scores.unused.contains(&id) {
                    self.split_at.insert(id, left.len);
                }
                Some((f64::from(scores.scores[id as usize]), id))
            }
        }
    }

    fn apply(&mut self, merge: &Merge) {
        let (left, right) = (self.symbols[merge.left], self.symbols[merge.right]);
        if left.len == 0 || right.len == 0 || left.len + right.len != merge.len {
            return;
        }
        self.symbols[merge.right].len = 0;
        self.symbols[merge.left] = Symbol { len: merge.len, id: Some(merge.id), next: right.next, ..left };
        if let Some(next) = right.next {
            self.symbols[next].previous = Some(merge.left);
        }
        self.offer(left.previous, Some(merge.left));
        self.offer(Some(merge.left), right.next);
    }

    fn tokens(&self) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        for symbol in self.symbols.iter().filter(|s| s.len > 0) {
            match &self.bpe.rule {
                // A byte without a piece has no token: the references leave it out as well.
                MergeRule::Ranks(_) => tokens.extend(symbol.id),
                MergeRule::Scores(scores) => self.resolve(symbol, scores, &mut tokens),
            }
        }
        tokens
    }

    /// The tokens of one symbol: a piece, the halves of an unused piece, or the bytes of an unknown character.
    fn resolve(&self, symbol: &Symbol, scores: &Scores, tokens: &mut Vec<TokenId>) {
        let mut parts = vec![&self.text[symbol.start..symbol.start + symbol.len]];
        while let Some(part) = parts.pop() {
            match self.bpe.find(part) {
                Some(id) => match self.split_at.get(&id) {
                    Some(&at) => parts.extend([&part[at..], &part[..at]]),
                    None => tokens.push(id),
                },
                None => scores.fall_back(part, tokens),
            }
        }
    }
}

impl Scores {
    /// A character outside the vocabulary: its bytes, or one unknown token for a run of such characters.
    fn fall_back(&self, character: &[u8], tokens: &mut Vec<TokenId>) {
        if let Some(bytes) = &self.bytes {
            tokens.extend(character.iter().map(|&b| bytes[usize::from(b)]));
        } else if self.unknown.is_some() && tokens.last() != self.unknown.as_ref() {
            tokens.extend(self.unknown);
        }
    }
}
