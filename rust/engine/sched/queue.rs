//! Sequences in the order of their rank.

use std::collections::VecDeque;

use super::live::Slot;
use crate::sequence::Rank;

/// Sorted by rank. Arrivals at the end and departures at either end are cheap.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<(Rank, Slot)>,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, position: usize) -> Option<Slot> {
        self.entries.get(position).map(|&(_, slot)| slot)
    }

    pub fn last(&self) -> Option<Slot> {
        self.entries.back().map(|&(_, slot)| slot)
    }

    pub fn insert(&mut self, rank: Rank, slot: Slot) {
        let position = self.entries.partition_point(|&(other, _)| other < rank);
        self.entries.insert(position, (rank, slot));
    }

    pub fn remove(&mut self, rank: Rank) {
        let position = self.entries.binary_search_by_key(&rank, |&(rank, _)| rank);
        self.entries.remove(position.expect("a sequence is in the queue of its state"));
    }

    pub fn iter(&self) -> impl Iterator<Item = (Rank, Slot)> + '_ {
        self.entries.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{RequestId, SequenceId};
    use crate::request::{Request, SamplingParams, Task};
    use crate::sequence::Sequence;

    fn rank(priority: i32, arrival: u64) -> Rank {
        let mut sequence = Sequence::new(
            SequenceId(0),
            &Request {
                id: RequestId(0),
                prompt: vec![0],
                params: SamplingParams::greedy(1).into(),
                task: Task::Generate,
                priority,
                cache_salt: None,
                seed: 0,
                max_len: 2,
            },
        );
        sequence.set_arrival(arrival);
        sequence.rank()
    }

    #[test]
    fn higher_priority_comes_first_and_then_earlier_arrival() {
        let mut queue = Queue::default();
        for (slot, (priority, arrival)) in [(0, 3), (-1, 0), (5, 4), (0, 1)].into_iter().enumerate() {
            queue.insert(rank(priority, arrival), slot);
        }
        assert_eq!(queue.iter().map(|(_, slot)| slot).collect::<Vec<_>>(), [2, 3, 0, 1]);
        queue.remove(rank(0, 3));
        assert_eq!((queue.get(0), queue.last(), queue.len()), (Some(2), Some(1), 3));
    }
}
