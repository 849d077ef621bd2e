//! The bytes of a vocabulary.

use std::hash::BuildHasher;
use std::num::NonZero;

use foldhash::fast::RandomState;

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
    slots: Vec<Slot>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Its id, and one: 0 is an empty slot.
    token: Option<NonZero<TokenId>>,
    /// More of the piece's hash: most other pieces differ here already.
    tag: u32,
}

impl Slot {
    fn id(self) -> Option<TokenId> {
        self.token.map(|token| token.get() - 1)
    }
}

impl PieceIndex {
    pub(super) fn with_capacity(num_tokens: usize) -> Self {
        let slots = vec![Slot::default(); (2 * num_tokens + 1).next_power_of_two()];
        Self { hasher: RandomState::default(), slots }
    }

    /// Inserts a token, unless one with the same piece is there. At most `num_tokens` may be inserted.
    pub(super) fn insert(&mut self, pieces: &Pieces, id: TokenId) {
        let (slot, tag) = self.slot(pieces, pieces.get(id));
        let slot = &mut self.slots[slot];
        if slot.token.is_none() {
            *slot = Slot { token: NonZero::new(id + 1), tag };
        }
    }

    pub(super) fn get(&self, pieces: &Pieces, piece: &[u8]) -> Option<TokenId> {
        self.slots[self.slot(pieces, piece).0].id()
    }

    /// The slot that holds `piece`, or the empty one where it belongs; and its tag.
    fn slot(&self, pieces: &Pieces, piece: &[u8]) -> (usize, u32) {
        let hash = self.hasher.hash_one(piece);
        let tag = (hash >> 32) as u32;
        let mask = self.slots.len() - 1;
        let mut slot = hash as usize & mask;
        while let Some(id) = self.slots[slot].id() {
            if self.slots[slot].tag == tag && pieces.get(id) == piece {
                break;
            }
            slot = (slot + 1) & mask;
        }
        (slot, tag)
    }
}
