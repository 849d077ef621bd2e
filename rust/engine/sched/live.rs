//! The sequences that are not finished.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::ids::SequenceId;
use crate::kv::{SequenceKv, SwappedKv};
use crate::sequence::Sequence;

/// Where a live sequence is stored.
pub(super) type Slot = usize;

#[derive(Debug)]
pub(super) struct Live {
    pub sequence: Sequence,
    /// Some: it runs. None: it waits.
    pub kv: Option<SequenceKv>,
    /// It waits, and what it has computed is in host memory.
    pub swapped: Option<SwappedKv>,
}

/// Dense storage whose slots are reused, and the way from an id to a slot.
#[derive(Debug, Default)]
pub(super) struct LiveSequences {
    entries: Vec<Option<Live>>,
    vacant: Vec<Slot>,
    slots: HashMap<SequenceId, Slot, BuildHasherDefault<IdHasher>>,
}

impl LiveSequences {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn insert(&mut self, sequence: Sequence, kv: Option<SequenceKv>) -> Slot {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        let previous = self.slots.insert(sequence.id(), slot);
        assert!(previous.is_none(), "sequence {} is added twice", sequence.id());
        self.entries[slot] = Some(Live { sequence, kv, swapped: None });
        slot
    }

    pub fn remove(&mut self, id: SequenceId) -> Option<Live> {
        let slot = self.slots.remove(&id)?;
        self.vacant.push(slot);
        self.entries[slot].take()
    }

    pub fn slot(&self, id: SequenceId) -> Option<Slot> {
        self.slots.get(&id).copied()
    }

    pub fn get(&self, slot: Slot) -> &Live {
        self.entries[slot].as_ref().expect("queues hold live sequences only")
    }

    pub fn get_mut(&mut self, slot: Slot) -> &mut Live {
        self.entries[slot].as_mut().expect("queues hold live sequences only")
    }

    pub fn iter(&self) -> impl Iterator<Item = &Live> + Clone {
        self.entries.iter().flatten()
    }
}

/// Ids are counted up by the engine: spreading them is enough (Knuth's multiplicative hashing).
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("sequence ids are u64")
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}
