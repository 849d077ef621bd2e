//! What kernels read of a step, as one array of 32-bit integers.
//!
//! Nothing that changes from step to step is an argument of a kernel: steps of equal size have equal arguments, so that
//! a recorded graph serves all of them.

use std::ops::Range;

use super::launch::Queries;
use crate::kv::KvGeometry;
use crate::sched::{RowsWanted, ScheduledSequence, SchedulerOutput};

/// Sections begin at multiples of this many integers: 16 bytes.
const ALIGNMENT: usize = 4;

/// Sequences of a block table's rows have at least this many entries, and otherwise a power of two.
const LEAST_BLOCKS: usize = 8;

/// What a step's arrays have room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StepSize {
    pub num_tokens: usize,
    pub num_seqs: usize,
    /// Queries of generated tokens, and parts of prompts.
    pub num_decodes: usize,
    pub num_prompts: usize,
    pub num_logit_rows: usize,
    pub num_hidden_rows: usize,
    /// Entries of a sequence's row of a block table.
    pub max_blocks: usize,
    pub num_groups: usize,
    pub num_copies: usize,
}

/// The arrays, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// (num_tokens,)
    Tokens,
    /// (num_tokens,): which of the last chosen tokens it is; -1: that in `Tokens`.
    Sources,
    /// (num_tokens,)
    Positions,
    /// (num_decodes,) `Queries`, of one query each, or none: padding.
    Decodes,
    /// (num_prompts,) `Queries`
    Prompts,
    /// (num_logit_rows,): tokens whose logits are wanted.
    LogitRows,
    /// (num_hidden_rows,): tokens whose hidden states are wanted.
    HiddenRows,
    /// Of a KV group, (num_tokens,): where keys and values go.
    Slots(usize),
    /// Of a KV group, (num_seqs, max_blocks).
    Tables(usize),
    /// (num_copies, 2): source and destination.
    Copies,
}

impl StepSize {
    pub fn of(step: &SchedulerOutput, geometry: &KvGeometry) -> Self {
        let blocks = step.sequences.iter().map(|sequence| sequence.context_len().div_ceil(geometry.block_size));
        let is_hidden = |sequence: &&ScheduledSequence| sequence.rows == RowsWanted::Embedding;
        Self {
            num_tokens: step.num_tokens(),
            num_seqs: step.sequences.len(),
            num_decodes: decodes(step).count(),
            num_prompts: prompts(step).count(),
            num_logit_rows: step.sequences.iter().map(ScheduledSequence::num_logit_rows).sum(),
            num_hidden_rows: step.sequences.iter().filter(is_hidden).count(),
            max_blocks: table_row(blocks.max().unwrap_or(0)),
            num_groups: geometry.groups.len(),
            num_copies: step.copies.len(),
        }
    }

    /// The largest of an engine. A sequence copies one block at most in each group.
    pub fn largest(max_tokens: usize, max_seqs: usize, max_len: usize, geometry: &KvGeometry) -> Self {
        Self {
            num_tokens: max_tokens,
            num_seqs: max_seqs,
            num_decodes: max_tokens,
            num_prompts: max_seqs,
            num_logit_rows: max_tokens,
            num_hidden_rows: max_seqs,
            max_blocks: table_row(max_len.div_ceil(geometry.block_size)),
            num_groups: geometry.groups.len(),
            num_copies: max_seqs * geometry.groups.len(),
        }
    }

    /// Integers of all sections.
    pub fn num_words(&self) -> usize {
        self.range(Section::Copies).end
    }

    pub fn range(&self, section: Section) -> Range<usize> {
        let first = [Section::Tokens, Section::Sources, Section::Positions, Section::Decodes];
        let ends = [Section::Prompts, Section::LogitRows, Section::HiddenRows];
        let groups = (0..self.num_groups).flat_map(|group| [Section::Slots(group), Section::Tables(group)]);
        let before = first.into_iter().chain(ends).chain(groups).take_while(|&other| other != section);
        let start = before.map(|section| self.section_len(section).next_multiple_of(ALIGNMENT)).sum();
        start..start + self.section_len(section)
    }

    fn section_len(&self, section: Section) -> usize {
        match section {
            Section::Tokens | Section::Sources | Section::Positions | Section::Slots(_) => self.num_tokens,
            Section::Decodes => self.num_decodes * Queries::WORDS,
            Section::Prompts => self.num_prompts * Queries::WORDS,
            Section::LogitRows => self.num_logit_rows,
            Section::HiddenRows => self.num_hidden_rows,
            Section::Tables(_) => self.num_seqs * self.max_blocks,
            Section::Copies => 2 * self.num_copies,
        }
    }

    /// Writes the step's arrays to `out`, (num_words,). Where there is room for more tokens and sequences than the step has,
    /// these are padding: they have no queries, and nothing of them is stored.
    pub fn write(&self, step: &SchedulerOutput, geometry: &KvGeometry, out: &mut [i32]) {
        let mut fill = |section, values: &mut dyn Iterator<Item = i32>, padding: i32| {
            for place in &mut out[self.range(section)] {
                *place = values.next().unwrap_or(padding);
            }
            assert!(values.next().is_none(), "{section:?} has no room for the step");
        };
        let sequences = || step.sequences.iter();
        let token = |index: usize| index as i32;
        fill(Section::Tokens, &mut step.tokens.iter().map(|&token| token as i32), 0);
        fill(Section::Sources, &mut sources(step), -1);
        fill(Section::Positions, &mut sequences().flat_map(positions).map(token), 0);
        fill(Section::Decodes, &mut decodes(step).flat_map(Queries::words), 0);
        fill(Section::Prompts, &mut prompts(step).flat_map(Queries::words), 0);
        fill(Section::LogitRows, &mut sequences().flat_map(logit_rows).map(token), 0);
        fill(Section::HiddenRows, &mut sequences().filter_map(hidden_row).map(token), 0);
        for group in 0..self.num_groups {
            let slots = sequences().flat_map(|s| slots(step, s, group, geometry.block_size));
            fill(Section::Slots(group), &mut slots.map(token), -1);
            let tables = sequences().flat_map(|s| table(step, s, group, self.max_blocks));
            fill(Section::Tables(group), &mut tables.map(token), 0);
        }
        let copies = step.copies.iter().flat_map(|copy| [copy.src, copy.dst]);
        fill(Section::Copies, &mut copies.map(|block| token(block.index())), 0);
    }
}

/// The queries of generated tokens, each by itself: whether it is computed alone, or with others after a preemption, the same
/// kernel makes the same of it.
pub fn decodes(step: &SchedulerOutput) -> impl Iterator<Item = Queries> {
    step.sequences.iter().enumerate().flat_map(|(sequence, scheduled)| {
        (scheduled.num_prompt_queries()..scheduled.num_tokens()).map(move |query| Queries {
            row: scheduled.tokens.start + query,
            count: 1,
            context_len: scheduled.start + query + 1,
            sequence,
        })
    })
}

/// The parts of prompts.
pub fn prompts(step: &SchedulerOutput) -> impl Iterator<Item = Queries> {
    let sequences = step.sequences.iter().enumerate();
    let parts = sequences.map(|(sequence, scheduled)| Queries {
        row: scheduled.tokens.start,
        count: scheduled.num_prompt_queries(),
        context_len: scheduled.start + scheduled.num_prompt_queries(),
        sequence,
    });
    parts.filter(|part| part.count > 0)
}

/// For each token: which of the last choices it is, or -1.
fn sources(step: &SchedulerOutput) -> impl Iterator<Item = i32> {
    let mut chosen = step.chosen.iter().peekable();
    (0..step.num_tokens())
        .map(move |token| chosen.next_if(|chosen| chosen.token == token).map_or(-1, |chosen| chosen.choice as i32))
}

fn table_row(blocks: usize) -> usize {
    blocks.next_power_of_two().max(LEAST_BLOCKS)
}

fn positions(sequence: &ScheduledSequence) -> Range<usize> {
    sequence.start..sequence.context_len()
}

fn logit_rows(sequence: &ScheduledSequence) -> Range<usize> {
    sequence.tokens.end - sequence.num_logit_rows()..sequence.tokens.end
}

fn hidden_row(sequence: &ScheduledSequence) -> Option<usize> {
    (sequence.rows == RowsWanted::Embedding).then(|| sequence.tokens.end - 1)
}

/// Where the scheduled tokens' keys and values of a group go.
fn slots(
    step: &SchedulerOutput,
    sequence: &ScheduledSequence,
    group: usize,
    block_size: usize,
) -> impl Iterator<Item = usize> {
    let table = &step.tables[sequence.tables.start + group];
    positions(sequence).map(move |position| {
        let entry = table.blocks.start + position / block_size - table.first_block;
        step.block_ids[entry].index() * block_size + position % block_size
    })
}

/// A sequence's row of a block table. Entries that have left the window, or are not there yet, are never read.
fn table(
    step: &SchedulerOutput,
    sequence: &ScheduledSequence,
    group: usize,
    max_blocks: usize,
) -> impl Iterator<Item = usize> {
    let table = &step.tables[sequence.tables.start + group];
    let blocks = step.block_ids[table.blocks.clone()].iter().map(|block| block.index());
    std::iter::repeat_n(0, table.first_block).chain(blocks).chain(std::iter::repeat(0)).take(max_blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BlockId;
    use crate::sched::{BlockCopy, ChosenToken, TableSlice};

    fn read<'a>(size: &StepSize, out: &'a [i32], section: Section) -> &'a [i32] {
        &out[size.range(section)]
    }

    /// A prompt of 3 tokens that begins, and a token at position 17 that was generated and has left the first block behind
    /// in group 1.
    fn step() -> SchedulerOutput {
        let mut step = SchedulerOutput::default();
        step.push(0, &[5, 6, 7], RowsWanted::All, 2, 1);
        step.push(17, &[8], RowsWanted::Last, 2, 2);
        step.sequences[1].num_prompt_tokens = 17;
        step.tables[3] = TableSlice { first_block: 1, blocks: 4..5 };
        step.chosen.push(ChosenToken { token: 3, choice: 4 });
        step.copies.push(BlockCopy { src: BlockId(9), dst: BlockId(3) });
        step
    }

    #[test]
    fn arrays_say_what_the_step_says_and_the_rest_is_padding() {
        let geometry = KvGeometry::new(10, 16, &[None, Some(8)]);
        let size = StepSize { num_tokens: 6, num_seqs: 4, num_decodes: 2, ..StepSize::of(&step(), &geometry) };
        let mut out = vec![99; size.num_words()];
        size.write(&step(), &geometry, &mut out);
        let read = |section| read(&size, &out, section);
        assert_eq!(read(Section::Tokens), [5, 6, 7, 8, 0, 0]);
        assert_eq!(read(Section::Sources), [-1, -1, -1, 4, -1, -1]);
        assert_eq!(read(Section::Positions), [0, 1, 2, 17, 0, 0]);
        assert_eq!(read(Section::Decodes), [3, 1, 18, 1, 0, 0, 0, 0]);
        assert_eq!(read(Section::Prompts), [0, 3, 3, 0]);
        assert_eq!(read(Section::LogitRows), [0, 1, 2, 3]);
        assert!(read(Section::HiddenRows).is_empty());
        assert_eq!(read(Section::Slots(0)), [0, 1, 2, 3 * 16 + 1, -1, -1]);
        assert_eq!(read(Section::Slots(1)), [16, 17, 18, 4 * 16 + 1, -1, -1]);
        assert_eq!(read(Section::Tables(0))[..2 * size.max_blocks][size.max_blocks..][..3], [2, 3, 0]);
        assert_eq!(read(Section::Tables(1))[size.max_blocks..][..3], [0, 4, 0]);
        assert_eq!(read(Section::Copies), [9, 3]);
    }

    /// After a preemption a step may hold the end of a prompt, and what was generated behind it.
    #[test]
    fn generated_tokens_are_queries_of_their_own() {
        let mut step = SchedulerOutput::default();
        step.push(0, &[1], RowsWanted::Last, 1, 1);
        step.push(5, &[2, 3, 4, 5], RowsWanted::Last, 1, 1);
        let found = |step: &SchedulerOutput| {
            let words = |queries: &mut dyn Iterator<Item = Queries>| queries.map(Queries::words).collect::<Vec<_>>();
            (words(&mut prompts(step)), words(&mut decodes(step)))
        };
        assert_eq!(found(&step), (vec![[0, 1, 1, 0], [1, 4, 9, 1]], vec![]));
        step.sequences[1].num_prompt_tokens = 7;
        assert_eq!(found(&step), (vec![[0, 1, 1, 0], [1, 2, 7, 1]], vec![[3, 1, 8, 1], [4, 1, 9, 1]]));
        step.sequences[1].num_prompt_tokens = 2;
        assert_eq!(found(&step).1, [[1, 1, 6, 1], [2, 1, 7, 1], [3, 1, 8, 1], [4, 1, 9, 1]]);
        assert_eq!(StepSize::of(&step, &KvGeometry::new(10, 16, &[None])).num_decodes, 4);
    }

    #[test]
    fn sections_are_aligned_and_do_not_overlap() {
        let size = StepSize {
            num_tokens: 5,
            num_seqs: 3,
            num_decodes: 3,
            num_prompts: 2,
            num_logit_rows: 1,
            num_hidden_rows: 2,
            max_blocks: 9,
            num_groups: 2,
            num_copies: 1,
        };
        use Section::*;
        let order = [
            Tokens,
            Sources,
            Positions,
            Decodes,
            Prompts,
            LogitRows,
            HiddenRows,
            Slots(0),
            Tables(0),
            Slots(1),
            Tables(1),
            Copies,
        ];
        let ranges = order.map(|section| size.range(section));
        for pair in ranges.windows(2) {
            assert!(pair[0].end <= pair[1].start && pair[1].start < pair[0].end + ALIGNMENT, "{ranges:?}");
        }
        assert!(ranges.iter().all(|range| range.start.is_multiple_of(ALIGNMENT)));
        assert_eq!(size.num_words(), ranges[11].end);
    }
}
