//! The bytes of a vocabulary.

use std::hash::{BuildHasher, RandomState};

use crate::ids::TokenId;

/// What every token stands for, in one allocation: a vocabulary has up to a million small pieces.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// (num_tokens,): where each piece ends.
    ends: Vec<usize>,
}

impl Pieces {
    pub(super) fn with_capacity(num_tokens: usize) -> Self {
        Self { bytes: Vec::with_capacity(8 * num_tokens), ends: Vec::with_capacity(num_tokens) }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.push_with(|bytes| bytes.extend_from_slice(piece));
    }

    /// Appends the piece that `write` adds to the bytes.
    pub(super) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Empty for ids outside the vocabulary.
    pub(super) fn get(&self, id: TokenId) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else { return &[] };
        let start = (id as usize).checked_sub(1).map_or(0, |previous| self.ends[previous]);
        &self.bytes[start..end]
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Piece to token, over pieces that lie elsewhere. Its hash is keyed, so that no file can make it slow.
#[derive(Debug)]
pub(super) struct PieceIndex {
    hasher: RandomState,
    /// A power of two of slots, at most half of them full; a token's first slot follows from its hash.
    slots: Vec<Option<TokenId>>,
}

impl PieceIndex {
    pub(super) fn with_capacity(num_tokens: usize) -> Self {
        Self { hasher: RandomState::new(), slots: vec![None; (2 * num_tokens + 1).next_power_of_two()] }
    }

    /// Inserts a token, unless one with the same piece is there. At most `num_tokens` may be inserted.
    pub(super) fn insert(&mut self, pieces: &Pieces, id: TokenId) {
        let slot = self.slot(pieces, pieces.get(id));
        self.slots[slot].get_or_insert(id);
    }

    pub(super) fn get(&self, pieces: &Pieces, piece: &[u8]) -> Option<TokenId> {
        self.slots[self.slot(pieces, piece)]
    }

    /// The slot that holds `piece`, or the empty one where it belongs.
    fn slot(&self, pieces: &Pieces, piece: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        let mut slot = self.hasher.hash_one(piece) as usize & mask;
        while self.slots[slot].is_some_and(|id| pieces.get(id) != piece) {
            slot = (slot + 1) & mask;
        }
        slot
    }
}
