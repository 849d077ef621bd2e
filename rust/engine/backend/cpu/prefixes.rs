//! What sequences of a step share: chunks of 256 positions in the same blocks, which are read once for all of them.
//!
//! A chunk's partial results do not depend on who else is computed with it, and are merged in order: so the queries of
//! all sequences that share it meet it as one tile, and each sequence goes on from there on its own.

use std::ops::Range;

use super::plan::cut;
use crate::ids::BlockId;
use crate::kernels::{AttentionTask, BLOCK_SIZE};
use crate::sched::{ScheduledSequence, SchedulerOutput};

/// Blocks of a chunk.
const CHUNK_BLOCKS: usize = AttentionTask::CHUNK_LEN / BLOCK_SIZE;

/// Sharing costs a barrier, and partial results on their way through memory: it is to save one of so many positions.
const WORTH_ONE_OF: usize = 8;

/// A chunk that several sequences have in the same blocks. Each decodes one token, and sees all of the chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedChunk {
    pub chunk: usize,
    /// One of those that share it: its table has the blocks.
    pub sequence: usize,
    /// Into the members of all chunks.
    members: Range<usize>,
}

/// A lane's work: one KV head of a shared chunk.
#[derive(Debug)]
pub struct SharedRead<'a> {
    pub kv_head: usize,
    pub chunk: &'a SharedChunk,
    /// The queries, as the step's tokens.
    pub tokens: &'a [usize],
    /// Where their partial results belong, a row each.
    pub rows: Range<usize>,
}

/// Of one KV group. Buffers are reused.
#[derive(Debug, Default)]
pub struct SharedPrefixes {
    chunks: Vec<SharedChunk>,
    /// Who shares, chunk by chunk. Partial results of a KV head have a row for each.
    tokens: Vec<usize>,
    /// Rows of the first KV head, sequence by sequence in the order of chunks.
    rows: Vec<usize>,
    /// (sequences + 1,) into `rows`.
    row_bounds: Vec<usize>,
    num_kv_heads: usize,
    /// (num_lanes + 1,) into (KV heads, chunks).
    bounds: Vec<usize>,
    /// Sequences in the order of their blocks, and how many chunks each shares with the one before it.
    order: Vec<(usize, usize)>,
}

impl SharedPrefixes {
    pub fn fill(
        &mut self,
        step: &SchedulerOutput,
        group: usize,
        window: Option<usize>,
        num_kv_heads: usize,
        num_lanes: usize,
    ) {
        self.clear(step.sequences.len());
        self.num_kv_heads = num_kv_heads;
        if window.is_none() {
            self.sort(step, group);
            self.find(step);
        }
        let saved: usize = self.chunks.iter().map(|chunk| (chunk.members.len() - 1) * AttentionTask::CHUNK_LEN).sum();
        let all: usize = step.sequences.iter().map(ScheduledSequence::context_len).sum();
        if saved * WORTH_ONE_OF < all {
            self.clear(step.sequences.len());
        }
        let costs = self.chunks.iter().map(|chunk| cost(chunk.members.len()));
        cut((0..num_kv_heads).flat_map(|_| costs.clone()), num_lanes, &mut self.bounds);
    }

    fn clear(&mut self, num_sequences: usize) {
        self.chunks.clear();
        self.tokens.clear();
        self.rows.clear();
        self.row_bounds.clear();
        self.row_bounds.resize(num_sequences + 1, 0);
        self.order.clear();
    }

    /// Those that share blocks become neighbours.
    fn sort(&mut self, step: &SchedulerOutput, group: usize) {
        let blocks = |sequence: usize| shareable(step, group, sequence);
        self.order.extend((0..step.sequences.len()).filter(|&i| !blocks(i).is_empty()).map(|i| (i, 0)));
        self.order.sort_unstable_by(|(a, _), (b, _)| blocks(*a).cmp(blocks(*b)).then(a.cmp(b)));
        for i in 1..self.order.len() {
            let [a, b] = [self.order[i - 1].0, self.order[i].0].map(blocks);
            self.order[i].1 = a.iter().zip(b).take_while(|(a, b)| a == b).count() / CHUNK_BLOCKS;
        }
    }

    /// Of neighbours.
    fn find(&mut self, step: &SchedulerOutput) {
        let shares = |i: usize| self.order.get(i).map_or(0, |&(_, chunks)| chunks);
        for (i, &(sequence, chunks)) in self.order.iter().enumerate() {
            self.row_bounds[sequence + 1] = chunks.max(shares(i + 1));
        }
        for sequence in 0..step.sequences.len() {
            self.row_bounds[sequence + 1] += self.row_bounds[sequence];
        }
        self.rows.resize(*self.row_bounds.last().expect("a bound in front"), 0);
        for chunk in 0..self.order.iter().map(|&(_, chunks)| chunks).max().unwrap_or(0) {
            for run in self.order.chunk_by(|_, &(_, chunks)| chunks > chunk).filter(|run| run.len() > 1) {
                let first = self.tokens.len();
                for &(sequence, _) in run {
                    self.rows[self.row_bounds[sequence] + chunk] = self.tokens.len();
                    self.tokens.push(step.sequences[sequence].tokens.start);
                }
                let members = first..self.tokens.len();
                self.chunks.push(SharedChunk { chunk, sequence: run[0].0, members });
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Rows of all partial results.
    pub fn num_rows(&self) -> usize {
        self.num_kv_heads * self.tokens.len()
    }

    /// How many chunks, from the first, others read for this sequence too.
    pub fn num_chunks(&self, sequence: usize) -> usize {
        self.row_bounds[sequence + 1] - self.row_bounds[sequence]
    }

    /// The partial results of these chunks: the rows of the first KV head, and how far those of `kv_head` are behind.
    pub fn rows(&self, sequence: usize, kv_head: usize) -> (&[usize], usize) {
        (&self.rows[self.row_bounds[sequence]..self.row_bounds[sequence + 1]], kv_head * self.tokens.len())
    }

    /// What `lane` reads for all.
    pub fn reads(&self, lane: usize) -> impl Iterator<Item = SharedRead<'_>> {
        (self.bounds[lane]..self.bounds[lane + 1]).map(|i| {
            let (kv_head, chunk) = (i / self.chunks.len(), &self.chunks[i % self.chunks.len()]);
            let behind = kv_head * self.tokens.len();
            SharedRead {
                kv_head,
                chunk,
                tokens: &self.tokens[chunk.members.clone()],
                rows: behind + chunk.members.start..behind + chunk.members.end,
            }
        })
    }
}

/// The blocks of the chunks that a sequence sees whole, if it decodes one token.
fn shareable(step: &SchedulerOutput, group: usize, sequence: usize) -> &[BlockId] {
    let sequence = &step.sequences[sequence];
    let table = &step.tables[sequence.tables.start + group];
    if sequence.num_tokens() != 1 || table.first_block > 0 {
        return &[];
    }
    let chunks = sequence.context_len() / AttentionTask::CHUNK_LEN;
    &step.block_ids[table.blocks.clone()][..chunks * CHUNK_BLOCKS]
}

/// Memory gives a chunk in the time that two members more take.
fn cost(num_members: usize) -> usize {
    2 + num_members
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::sched::RowsWanted;

    /// Sequences of some blocks, each of which has its first ones in common with an earlier one.
    fn step(shapes: &[(usize, usize, usize, usize)]) -> SchedulerOutput {
        let mut step = SchedulerOutput::default();
        for (i, &(num_tokens, start, like, num_like)) in shapes.iter().enumerate() {
            step.push(start, &vec![0; num_tokens], RowsWanted::Last, 1, (start + num_tokens).div_ceil(BLOCK_SIZE));
            let [earlier, own] = [like % (i + 1), i].map(|sequence| step.tables[sequence].blocks.clone());
            for (from, to) in earlier.zip(own).take(num_like) {
                step.block_ids[to] = step.block_ids[from];
            }
        }
        step
    }

    proptest! {
        #[test]
        fn lanes_read_every_shared_chunk_once_for_all_that_have_it(
            shapes in prop::collection::vec((1usize..3, 0usize..1500, any::<usize>(), 0usize..90), 1..9),
            lanes in 1usize..5,
            kv_heads in 1usize..4,
        ) {
            let step = step(&shapes);
            let mut shared = SharedPrefixes::default();
            // What an earlier step left behind does not matter.
            shared.fill(&self::step(&[(1, 700, 0, 0), (1, 700, 0, 40)]), 0, None, 3, 2);
            prop_assert_eq!(shared.num_rows(), 3 * 2 * 2);
            shared.fill(&step, 0, None, kv_heads, lanes);
            let blocks = |sequence: usize| &step.block_ids[step.tables[sequence].blocks.clone()];
            let mut seen = BTreeSet::new();
            let mut rows_seen = BTreeSet::new();
            for read in (0..lanes).flat_map(|lane| shared.reads(lane)) {
                let (chunk, kv_head) = (read.chunk.chunk, read.kv_head);
                let of_chunk = chunk * CHUNK_BLOCKS..(chunk + 1) * CHUNK_BLOCKS;
                prop_assert!(read.tokens.len() > 1);
                for (&token, row) in read.tokens.iter().zip(read.rows.clone()) {
                    let sequence = step.sequences.iter().position(|s| s.tokens == (token..token + 1)).expect("one token");
                    prop_assert!(step.sequences[sequence].context_len() >= of_chunk.end * BLOCK_SIZE, "sees all of it");
                    prop_assert_eq!(&blocks(sequence)[of_chunk.clone()], &blocks(read.chunk.sequence)[of_chunk.clone()]);
                    let (rows, behind) = shared.rows(sequence, kv_head);
                    prop_assert_eq!(rows[chunk] + behind, row);
                    prop_assert!(seen.insert((sequence, kv_head, chunk)));
                    prop_assert!(row < shared.num_rows() && rows_seen.insert(row));
                }
            }
            let all: usize = (0..shapes.len()).map(|sequence| kv_heads * shared.num_chunks(sequence)).sum();
            prop_assert_eq!(seen.len(), all);
            // Two of a chunk's readers are never read for apart.
            for (a, b) in (0..shapes.len()).flat_map(|b| (0..b).map(move |a| (a, b))).filter(|_| !shared.is_empty()) {
                let alike = shareable(&step, 0, a).iter().zip(shareable(&step, 0, b)).take_while(|(a, b)| a == b).count();
                let chunks = alike / CHUNK_BLOCKS;
                prop_assert!(shared.num_chunks(a) >= chunks && shared.num_chunks(b) >= chunks);
                let rows = [a, b].map(|sequence| shared.rows(sequence, 0).0);
                for chunk in 0..chunks {
                    let members = |row: usize| shared.chunks.iter().find(|chunk| chunk.members.contains(&row));
                    prop_assert_eq!(members(rows[0][chunk]), members(rows[1][chunk]));
                }
            }
        }
    }

    #[test]
    fn little_that_is_shared_is_read_by_each() {
        let mut shared = SharedPrefixes::default();
        shared.fill(&step(&[(1, 1023, 0, 0), (1, 1023, 0, 16)]), 0, None, 1, 2);
        assert_eq!(shared.num_rows(), 2, "one of eight positions");
        shared.fill(&step(&[(1, 1023, 0, 0), (1, 1024, 0, 16)]), 0, None, 1, 2);
        assert!(shared.is_empty());
        shared.fill(&step(&[(1, 1023, 0, 0), (1, 1023, 0, 64)]), 0, Some(2000), 1, 2);
        assert!(shared.is_empty(), "blocks in front of a window are given back");
    }
}
