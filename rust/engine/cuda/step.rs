//! What kernels read of a step, as one array of 32-bit integers.
//!
//! Nothing that changes from step to step is an argument of a kernel: steps of equal size have equal arguments, so that
//! a recorded graph serves all of them.

use std::ops::Range;
use std::sync::Arc;

use super::driver::{Context, DeviceBuffer, DeviceSlice, Event, PinnedBuffer, Stream};
use crate::error::Result;
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
    /// (num_seqs + 1,)
    QueryStarts,
    /// (num_seqs,)
    ContextLens,
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
        let first = [Section::Tokens, Section::Sources, Section::Positions, Section::QueryStarts];
        let ends = [Section::ContextLens, Section::LogitRows, Section::HiddenRows];
        let groups = (0..self.num_groups).flat_map(|group| [Section::Slots(group), Section::Tables(group)]);
        let before = first.into_iter().chain(ends).chain(groups).take_while(|&other| other != section);
        let start = before.map(|section| self.section_len(section).next_multiple_of(ALIGNMENT)).sum();
        start..start + self.section_len(section)
    }

    fn section_len(&self, section: Section) -> usize {
        match section {
            Section::Tokens | Section::Sources | Section::Positions | Section::Slots(_) => self.num_tokens,
            Section::QueryStarts => self.num_seqs + 1,
            Section::ContextLens => self.num_seqs,
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
        fill(Section::QueryStarts, &mut sequences().map(|s| token(s.tokens.start)), token(step.num_tokens()));
        fill(Section::ContextLens, &mut sequences().map(|s| token(s.context_len())), 0);
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

/// What makes the arrays of a decode step, `before`, those of the next one, `wanted`: pairs of a place and a word, in `changes`,
/// beside what the device advances by itself. False: the next one is not of the same sequences with one token more.
fn advance(size: &StepSize, before: &[i32], wanted: &[i32], changes: &mut Vec<i32>) -> bool {
    let part = |of, section| -> &[i32] { part(size, of, section) };
    let lens = part(before, Section::ContextLens);
    let grows = |section| {
        let pairs = part(before, section).iter().zip(part(wanted, section));
        pairs.zip(lens).all(|((&before, &wanted), &len)| wanted == before + i32::from(len > 0))
    };
    if !grows(Section::Positions) || !grows(Section::ContextLens) {
        return false;
    }
    changes.clear();
    let stays = [Section::Tokens, Section::Sources, Section::QueryStarts, Section::LogitRows];
    let tables = (0..size.num_groups).map(Section::Tables);
    for place in stays.into_iter().chain(tables).flat_map(|section| size.range(section)) {
        if before[place] != wanted[place] {
            changes.extend([place as i32, wanted[place]]);
        }
    }
    true
}

fn part<'a>(size: &StepSize, arrays: &'a [i32], section: Section) -> &'a [i32] {
    &arrays[size.range(section)]
}

/// One of two sets of arrays on the device.
struct StepArrays {
    host: PinnedBuffer<i32>,
    device: DeviceBuffer<i32>,
    /// The copy to the device is done.
    uploaded: Event,
    /// The step that reads the device's copy is done.
    computed: Event,
}

impl StepArrays {
    fn new(context: &Arc<Context>, len: usize) -> Result<Self> {
        Ok(Self {
            host: PinnedBuffer::new(context, len)?,
            device: DeviceBuffer::new(context, len)?,
            uploaded: Event::new(context)?,
            computed: Event::new(context)?,
        })
    }

    /// Copies the arrays in `uploads`; what follows in `compute` may read them.
    fn upload(&mut self, arrays: &[i32], uploads: &Stream, compute: &Stream) -> Result<()> {
        self.host.wait()?[..arrays.len()].copy_from_slice(arrays);
        uploads.wait(&self.computed)?;
        self.host.upload(self.device.slice(0..arrays.len()), uploads)?;
        self.uploaded.record(uploads)?;
        compute.wait(&self.uploaded)
    }
}

/// The arrays of steps on the device: a step's are written to one set while the step before reads the other; or, where they only
/// advance, the device does that in place.
pub struct DeviceArrays {
    sets: [StepArrays; 2],
    /// The set of the last step.
    turn: usize,
    /// Of the last step. None: nothing is known of what the set holds.
    size: Option<StepSize>,
    /// (num_words,): what the set holds.
    held: Vec<i32>,
    /// (num_words,): of the next step.
    wanted: Vec<i32>,
    changes: Vec<i32>,
    host_changes: PinnedBuffer<i32>,
    /// Their number, then pairs of a place and a word.
    device_changes: DeviceBuffer<i32>,
    has_no_changes: bool,
}

/// Where a step finds its arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub set: usize,
    /// They are those of the step before still, and have to be advanced first.
    pub is_before: bool,
}

impl DeviceArrays {
    /// With room for steps of `largest`.
    pub fn new(context: &Arc<Context>, largest: &StepSize) -> Result<Self> {
        let len = largest.num_words();
        Ok(Self {
            sets: [StepArrays::new(context, len)?, StepArrays::new(context, len)?],
            turn: 0,
            size: None,
            held: Vec::with_capacity(len),
            wanted: Vec::with_capacity(len),
            changes: Vec::with_capacity(len),
            host_changes: PinnedBuffer::new(context, len)?,
            device_changes: DeviceBuffer::new(context, len)?,
            has_no_changes: false,
        })
    }

    /// Brings the step's arrays to the device. What follows in `compute` may read them, once they are advanced if need be.
    pub fn bring(
        &mut self,
        step: &SchedulerOutput,
        size: StepSize,
        geometry: &KvGeometry,
        may_advance: bool,
        uploads: &Stream,
        compute: &Stream,
    ) -> Result<Place> {
        let held = self.size.take();
        self.wanted.resize(size.num_words(), 0);
        size.write(step, geometry, &mut self.wanted);
        let is_before = may_advance && size.num_copies == 0 && held == Some(size) && self.can_advance(&size);
        match is_before {
            true => self.upload_changes(compute)?,
            false => {
                self.turn = (self.turn + 1) % self.sets.len();
                self.sets[self.turn].upload(&self.wanted, uploads, compute)?;
            }
        }
        std::mem::swap(&mut self.held, &mut self.wanted);
        self.size = Some(size);
        Ok(Place { set: self.turn, is_before })
    }

    /// Not with so many changes that all arrays are hardly more.
    fn can_advance(&mut self, size: &StepSize) -> bool {
        advance(size, &self.held, &self.wanted, &mut self.changes) && 2 * self.changes.len() <= size.num_words()
    }

    /// In the stream of the steps, for which they are few enough.
    fn upload_changes(&mut self, compute: &Stream) -> Result<()> {
        let len = self.changes.len();
        if len == 0 && self.has_no_changes {
            return Ok(());
        }
        let host = self.host_changes.wait()?;
        host[0] = (len / 2) as i32;
        host[1..=len].copy_from_slice(&self.changes);
        self.has_no_changes = len == 0;
        self.host_changes.upload(self.device_changes.slice(0..1 + len), compute)
    }

    /// What is in `compute` until now was all that reads the device's copy. If not all of the step was launched, the copy may
    /// not be what it should.
    pub fn release(&mut self, place: Place, launched: Result<()>, compute: &Stream) -> Result<()> {
        if launched.is_err() {
            self.size = None;
        }
        self.sets[place.set].computed.record(compute).and(launched)
    }

    pub fn device(&self, place: Place) -> &DeviceBuffer<i32> {
        &self.sets[place.set].device
    }

    pub fn changes(&self) -> DeviceSlice<'_, i32> {
        self.device_changes.all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BlockId;
    use crate::sched::{BlockCopy, ChosenToken, TableSlice};

    fn read<'a>(size: &StepSize, out: &'a [i32], section: Section) -> &'a [i32] {
        &out[size.range(section)]
    }

    /// A sequence of 3 tokens that begins, and one at position 17 that has left the first block behind in group 1.
    fn step() -> SchedulerOutput {
        let mut step = SchedulerOutput::default();
        step.push(0, &[5, 6, 7], RowsWanted::All, 2, 1);
        step.push(17, &[8], RowsWanted::Last, 2, 2);
        step.tables[3] = TableSlice { first_block: 1, blocks: 4..5 };
        step.chosen.push(ChosenToken { token: 3, choice: 4 });
        step.copies.push(BlockCopy { src: BlockId(9), dst: BlockId(3) });
        step
    }

    #[test]
    fn arrays_say_what_the_step_says_and_the_rest_is_padding() {
        let geometry = KvGeometry::new(10, 16, &[None, Some(8)]);
        let size = StepSize { num_tokens: 6, num_seqs: 4, ..StepSize::of(&step(), &geometry) };
        let mut out = vec![99; size.num_words()];
        size.write(&step(), &geometry, &mut out);
        let read = |section| read(&size, &out, section);
        assert_eq!(read(Section::Tokens), [5, 6, 7, 8, 0, 0]);
        assert_eq!(read(Section::Sources), [-1, -1, -1, 4, -1, -1]);
        assert_eq!(read(Section::Positions), [0, 1, 2, 17, 0, 0]);
        assert_eq!(read(Section::QueryStarts), [0, 3, 4, 4, 4]);
        assert_eq!(read(Section::ContextLens), [3, 18, 0, 0]);
        assert_eq!(read(Section::LogitRows), [0, 1, 2, 3]);
        assert!(read(Section::HiddenRows).is_empty());
        assert_eq!(read(Section::Slots(0)), [0, 1, 2, 3 * 16 + 1, -1, -1]);
        assert_eq!(read(Section::Slots(1)), [16, 17, 18, 4 * 16 + 1, -1, -1]);
        assert_eq!(read(Section::Tables(0))[..2 * size.max_blocks][size.max_blocks..][..3], [2, 3, 0]);
        assert_eq!(read(Section::Tables(1))[size.max_blocks..][..3], [0, 4, 0]);
        assert_eq!(read(Section::Copies), [9, 3]);
    }

    #[test]
    fn sections_are_aligned_and_do_not_overlap() {
        let size = StepSize {
            num_tokens: 5,
            num_seqs: 3,
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
            QueryStarts,
            ContextLens,
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

    /// Three sequences that decode, with `num_tokens` each in the cache before the step, and the same blocks in each step.
    fn decodes(num_tokens: [usize; 3], geometry: &KvGeometry) -> SchedulerOutput {
        let mut step = SchedulerOutput::default();
        for (sequence, num_tokens) in num_tokens.into_iter().enumerate() {
            step.push(num_tokens, &[0], RowsWanted::Last, geometry.groups.len(), num_tokens / geometry.block_size + 1);
            step.chosen.push(ChosenToken { token: sequence, choice: sequence });
        }
        for (sequence, tables) in step.sequences.iter().zip(step.tables.chunks(geometry.groups.len())) {
            for (group, table) in tables.iter().enumerate() {
                for (entry, id) in step.block_ids[table.blocks.clone()].iter_mut().enumerate() {
                    *id = BlockId((100 * sequence.tokens.start + 10 * group + entry) as u32);
                }
            }
        }
        step
    }

    /// As the kernel does it.
    fn advanced(size: &StepSize, mut arrays: Vec<i32>, changes: &[i32]) -> Vec<i32> {
        for change in changes.chunks(2) {
            arrays[change[0] as usize] = change[1];
        }
        for row in 0..size.num_seqs {
            let place = |section| size.range(section).start + row;
            if arrays[place(Section::ContextLens)] == 0 {
                continue;
            }
            arrays[place(Section::Positions)] += 1;
            arrays[place(Section::ContextLens)] += 1;
            let position = arrays[place(Section::Positions)] as usize;
            for group in 0..size.num_groups {
                let table = size.range(Section::Tables(group)).start + row * size.max_blocks;
                arrays[place(Section::Slots(group))] = arrays[table + position / 16] * 16 + (position % 16) as i32;
            }
        }
        arrays
    }

    /// The last of four places is padding.
    fn size_of(step: &SchedulerOutput, geometry: &KvGeometry) -> StepSize {
        StepSize { num_tokens: 4, num_seqs: 4, num_logit_rows: 4, ..StepSize::of(step, geometry) }
    }

    fn written(size: &StepSize, step: &SchedulerOutput, geometry: &KvGeometry) -> Vec<i32> {
        let mut out = vec![99; size.num_words()];
        size.write(step, geometry, &mut out);
        out
    }

    #[test]
    fn a_decode_step_becomes_the_next_one() {
        let geometry = KvGeometry::new(10, 16, &[None, Some(8)]);
        let mut changes = Vec::new();
        for (start, num_changes) in [([3, 20, 40], 0), ([15, 20, 31], 4), ([14, 15, 16], 2), ([15, 15, 15], 6)] {
            let (step, next) = (decodes(start, &geometry), decodes(start.map(|len| len + 1), &geometry));
            let size = size_of(&step, &geometry);
            let (before, wanted) = (written(&size, &step, &geometry), written(&size, &next, &geometry));
            assert!(advance(&size, &before, &wanted, &mut changes));
            // A new block is a word for each group.
            assert_eq!(changes.len() / 2, num_changes, "{start:?}");
            assert_eq!(advanced(&size, before, &changes), wanted);
        }
    }

    #[test]
    fn other_sequences_or_tokens_are_no_advance() {
        let geometry = KvGeometry::new(10, 16, &[None, Some(8)]);
        let step = decodes([3, 20, 40], &geometry);
        let size = size_of(&step, &geometry);
        let before = written(&size, &step, &geometry);
        for other in [[4, 21, 42], [4, 20, 41], [21, 4, 41], [3, 20, 40]] {
            let wanted = written(&size, &decodes(other, &geometry), &geometry);
            assert!(!advance(&size, &before, &wanted, &mut Vec::new()), "{other:?}");
        }
    }
}
