//! A step's arrays on their way to the device, or in place there.

use std::sync::Arc;

use super::driver::{Context, DeviceBuffer, DeviceSlice, Event, PinnedBuffer, Stream};
use super::launch::Queries;
use super::step::{Section, StepSize};
use crate::error::Result;
use crate::kv::KvGeometry;
use crate::sched::SchedulerOutput;

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

/// What makes the arrays of a decode step, `before`, those of the next one, `wanted`: pairs of a place and a word, in `changes`,
/// beside what the device advances by itself. False: the next one is not of the same sequences with one token more.
fn advance(size: &StepSize, before: &[i32], wanted: &[i32], changes: &mut Vec<i32>) -> bool {
    let part = |of, section| -> &[i32] { part(size, of, section) };
    type Token<'a> = (&'a i32, &'a [i32; Queries::WORDS]);
    let tokens = |of| part(of, Section::Positions).iter().zip(queries(size, of));
    let is_next = |((position, &[row, count, context_len, sequence]), (next, wanted)): (Token<'_>, Token<'_>)| {
        *next == position + count && *wanted == [row, count, context_len + count, sequence]
    };
    if !tokens(before).zip(tokens(wanted)).all(is_next) {
        return false;
    }
    changes.clear();
    let stays = [Section::Tokens, Section::Sources, Section::LogitRows];
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

/// Of a decode step: one per token, or none where the place is padding.
fn queries<'a>(size: &StepSize, arrays: &'a [i32]) -> &'a [[i32; Queries::WORDS]] {
    part(size, arrays, Section::Decodes).as_chunks().0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BlockId;
    use crate::sched::{ChosenToken, RowsWanted};

    /// Three sequences that decode, with `num_tokens` each in the cache before the step, and the same blocks in each step.
    fn decodes(num_tokens: [usize; 3], geometry: &KvGeometry) -> SchedulerOutput {
        let mut step = SchedulerOutput::default();
        for (sequence, num_tokens) in num_tokens.into_iter().enumerate() {
            step.push(num_tokens, &[0], RowsWanted::Last, geometry.groups.len(), num_tokens / geometry.block_size + 1);
            step.sequences[sequence].num_prompt_tokens = num_tokens;
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
            let queries = size.range(Section::Decodes).start + row * Queries::WORDS;
            if arrays[queries + 1] == 0 {
                continue;
            }
            arrays[place(Section::Positions)] += 1;
            arrays[queries + 2] += 1;
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
        StepSize { num_tokens: 4, num_seqs: 4, num_decodes: 4, num_logit_rows: 4, ..StepSize::of(step, geometry) }
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
