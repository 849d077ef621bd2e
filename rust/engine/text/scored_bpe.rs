//! SentencePiece's byte-pair encoding: of all neighbours that are a piece together, the best scored merge first.
//! Source: Kudo and Richardson, "SentencePiece" (2018), and its BPE model.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use super::pieces::{PieceIndex, Pieces};
use crate::ids::TokenId;

/// A vocabulary with scores. Loading it is one pass: no list of merges is derived.
#[derive(Debug)]
pub(super) struct ScoredBpe {
    pub(super) pieces: Arc<Pieces>,
    /// The pieces that text may become.
    pub(super) index: PieceIndex,
    /// (num_tokens,)
    pub(super) scores: Vec<f32>,
    /// Pieces that merges pass through but that are never a result.
    pub(super) unused: HashSet<TokenId>,
    /// The tokens of single bytes, for characters outside the vocabulary.
    pub(super) bytes: Option<Box<[TokenId; 256]>>,
    pub(super) unknown: Option<TokenId>,
}

/// A run of characters that are one piece, or one character that is none; linked to its neighbours.
struct Symbol {
    start: usize,
    /// 0 once it was merged into its left neighbour.
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that are a piece together.
struct Merge {
    score: f32,
    left: usize,
    right: usize,
    /// Of both together: a symbol that grew since makes this merge stale.
    len: usize,
    id: TokenId,
}

impl Ord for Merge {
    /// Higher scores first, then further left.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
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
    model: &'a ScoredBpe,
    text: &'a str,
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Merge>,
    /// Where each unused piece was put together.
    split_at: HashMap<TokenId, usize>,
}

impl ScoredBpe {
    pub(super) fn tokenize(&self, text: &str) -> Vec<TokenId> {
        let mut merging = Merging {
            model: self,
            text,
            symbols: characters(text),
            queue: BinaryHeap::new(),
            split_at: HashMap::new(),
        };
        merging.run();
        merging.tokens()
    }

    fn find(&self, piece: &str) -> Option<TokenId> {
        self.index.get(&self.pieces, piece.as_bytes())
    }
}

fn characters(text: &str) -> Vec<Symbol> {
    let count = text.chars().count();
    let symbol = |(at, (start, c)): (usize, (usize, char))| Symbol {
        start,
        len: c.len_utf8(),
        previous: at.checked_sub(1),
        next: (at + 1 < count).then_some(at + 1),
    };
    text.char_indices().enumerate().map(symbol).collect()
}

impl Merging<'_> {
    fn run(&mut self) {
        for right in 1..self.symbols.len() {
            self.offer(Some(right - 1), Some(right));
        }
        while let Some(merge) = self.queue.pop() {
            self.apply(&merge);
        }
    }

    /// Queues the merge of two neighbours, if they are a piece together.
    fn offer(&mut self, left: Option<usize>, right: Option<usize>) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (start, left_len) = (self.symbols[left].start, self.symbols[left].len);
        let len = left_len + self.symbols[right].len;
        let Some(id) = self.model.find(&self.text[start..start + len]) else { return };
        if self.model.unused.contains(&id) {
            self.split_at.insert(id, left_len);
        }
        self.queue.push(Merge { score: self.model.scores[id as usize], left, right, len, id });
    }

    fn apply(&mut self, merge: &Merge) {
        let (left_len, right_len) = (self.symbols[merge.left].len, self.symbols[merge.right].len);
        if left_len == 0 || right_len == 0 || left_len + right_len != merge.len {
            return;
        }
        debug_assert_eq!(self.model.pieces.get(merge.id).len(), merge.len);
        let next = self.symbols[merge.right].next;
        self.symbols[merge.right].len = 0;
        self.symbols[merge.left].len = merge.len;
        self.symbols[merge.left].next = next;
        if let Some(next) = next {
            self.symbols[next].previous = Some(merge.left);
        }
        self.offer(self.symbols[merge.left].previous, Some(merge.left));
        self.offer(Some(merge.left), next);
    }

    fn tokens(&self) -> Vec<TokenId> {
        let mut tokens = Vec::new();
        for symbol in self.symbols.iter().filter(|s| s.len > 0) {
            self.resolve(&self.text[symbol.start..symbol.start + symbol.len], &mut tokens);
        }
        tokens
    }

    /// The tokens of one symbol: a piece, the halves of an unused piece, or the bytes of an unknown character.
    fn resolve(&self, symbol: &str, tokens: &mut Vec<TokenId>) {
        let mut parts = vec![symbol];
        while let Some(part) = parts.pop() {
            match self.model.find(part) {
                Some(id) => match self.split_at.get(&id) {
                    Some(&at) => parts.extend([&part[at..], &part[..at]]),
                    None => tokens.push(id),
                },
                None => self.fall_back(part, tokens),
            }
        }
    }

    fn fall_back(&self, character: &str, tokens: &mut Vec<TokenId>) {
        if let Some(bytes) = &self.model.bytes {
            tokens.extend(character.bytes().map(|b| bytes[usize::from(b)]));
        } else if tokens.last() != self.model.unknown.as_ref() {
            tokens.extend(self.model.unknown);
        }
    }
}
