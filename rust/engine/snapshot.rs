//! What the engine holds at one moment, for those who watch it. Taken between two steps, when somebody asks.

use std::ops::Range;
use std::time::Duration;

use crate::ids::{BlockId, RequestId};
use crate::kv::BlockState;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The KV pool in the order of block ids: how many neighbours are in the same state.
    pub blocks: Vec<(usize, BlockState)>,
    /// By id.
    pub requests: Vec<RequestSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSnapshot {
    pub id: RequestId,
    /// From submission to its first step. None: it has yet to run.
    pub queue_time: Option<Duration>,
    pub num_cached_tokens: usize,
    /// Tokens of the first choice whose keys and values are in the cache.
    pub num_computed_tokens: usize,
    /// Ids of the blocks that its sequences hold, ascending.
    pub blocks: Vec<Range<u32>>,
}

/// Runs of equal neighbours.
pub(crate) fn runs(states: impl Iterator<Item = BlockState>) -> Vec<(usize, BlockState)> {
    let mut runs: Vec<(usize, BlockState)> = Vec::new();
    for state in states {
        match runs.last_mut() {
            Some((count, last)) if *last == state => *count += 1,
            _ => runs.push((1, state)),
        }
    }
    runs
}

/// Runs of successive ids, each id once.
pub(crate) fn ranges(mut ids: Vec<BlockId>) -> Vec<Range<u32>> {
    ids.sort_unstable();
    let mut ranges: Vec<Range<u32>> = Vec::new();
    for BlockId(id) in ids {
        match ranges.last_mut() {
            // Choices of one request share blocks.
            Some(last) if id < last.end => {}
            Some(last) if id == last.end => last.end += 1,
            _ => ranges.push(id..id + 1),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_told_together() {
        use BlockState::{Free, Used};
        assert_eq!(runs([Used, Used, Free, Used].into_iter()), [(2, Used), (1, Free), (1, Used)]);
        assert_eq!(ranges([7, 2, 3, 3, 8, 5].map(BlockId).to_vec()), [2..4, 5..6, 7..9]);
    }
}
