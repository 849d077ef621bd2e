//! Tokens that the device chooses, so that logits stay there.

use std::ops::Range;
use std::sync::Arc;

use super::driver::{Context, DeviceBuffer, DeviceSlice, PinnedBuffer, Stream};
use super::launch::{EditLogits, Kernels, Sample};
use crate::error::Result;
use crate::ids::TokenId;
use crate::sample::{Choice, Edit, SamplePlan};

/// Sections begin at multiples of this many words: 16 bytes.
const ALIGNMENT: usize = 4;
/// Bits of an edit's flags.
const BANNED: u32 = 1;
const SEEN: u32 = 2;

/// What the kernels read of a plan, which grows with the largest plan so far, and what they have chosen.
pub struct Sampler {
    context: Arc<Context>,
    host: PinnedBuffer<u32>,
    device: DeviceBuffer<u32>,
    /// (max_choices,): the next step reads it, also in recorded graphs.
    chosen: DeviceBuffer<i32>,
    /// (max_choices,)
    tokens: PinnedBuffer<i32>,
    /// Of the last plan.
    num_choices: usize,
}

/// Where the arrays of a plan lie.
struct Sections {
    /// (num_choices, 8)
    requests: Range<usize>,
    /// (num_choices,)
    rows: Range<usize>,
    /// (num_rows + 1,)
    starts: Range<usize>,
    /// (num_rows, 3)
    penalties: Range<usize>,
    /// (num_edits, 4)
    edits: Range<usize>,
    /// (num_rows, ceil(vocab_size / 32)), if there are any.
    masks: Range<usize>,
}

impl Sections {
    fn of(plan: &SamplePlan, num_rows: usize, vocab_size: usize) -> Self {
        let num_edits: usize = plan.edits.iter().map(|row| row.edits.len()).sum();
        let mut end = 0;
        let mut take = |len: usize| {
            let start = usize::next_multiple_of(end, ALIGNMENT);
            end = start + len;
            start..end
        };
        Self {
            requests: take(8 * plan.choices.len()),
            rows: take(plan.choices.len()),
            starts: take(num_rows + 1),
            penalties: take(3 * num_rows),
            edits: take(4 * num_edits),
            masks: take(if plan.masks.is_empty() { 0 } else { num_rows * vocab_size.div_ceil(32) }),
        }
    }
}

impl Sampler {
    /// `max_choices`: the most of one step.
    pub fn new(context: &Arc<Context>, max_choices: usize) -> Result<Self> {
        Ok(Self {
            context: context.clone(),
            host: PinnedBuffer::new(context, 0)?,
            device: DeviceBuffer::new(context, 0)?,
            chosen: DeviceBuffer::new(context, max_choices)?,
            tokens: PinnedBuffer::new(context, max_choices)?,
            num_choices: 0,
        })
    }

    /// Chooses from `logits`, (num_rows, vocab_size), which the plan's edits change.
    pub fn choose(
        &mut self,
        plan: &SamplePlan,
        logits: DeviceSlice<'_, f32>,
        vocab_size: usize,
        kernels: &Kernels,
        stream: &Stream,
    ) -> Result<()> {
        self.num_choices = plan.choices.len();
        if plan.choices.is_empty() {
            return Ok(());
        }
        let num_rows = logits.len() / vocab_size;
        let sections = Sections::of(plan, num_rows, vocab_size);
        let num_words = sections.masks.end;
        self.reserve(num_words)?;
        write(plan, &sections, num_rows, self.host.wait()?);
        self.host.upload(self.device.slice(0..num_words), stream)?;
        let part = |range: Range<usize>| self.device.slice(range);
        if !(plan.edits.is_empty() && plan.masks.is_empty()) {
            let (starts, penalties) = (part(sections.starts), part(sections.penalties));
            let masks = (!sections.masks.is_empty()).then(|| part(sections.masks));
            let edits = part(sections.edits);
            kernels.launch(&EditLogits { logits, masks, starts, edits, penalties, vocab_size }, stream)?;
        }
        let tokens = self.chosen.slice(0..plan.choices.len());
        let (rows, requests) = (part(sections.rows), part(sections.requests));
        kernels.launch(&Sample { logits, rows, requests, tokens, vocab_size }, stream)?;
        self.tokens.download(tokens, stream)
    }

    /// What was chosen last. None: no logit of the row is finite.
    pub fn chosen(&mut self) -> Result<Vec<Option<TokenId>>> {
        let tokens = &self.tokens.wait()?[..self.num_choices];
        Ok(tokens.iter().map(|&token| TokenId::try_from(token).ok()).collect())
    }

    /// What was chosen last, on the device: (max_choices,), of which those of the last plan are defined.
    pub fn on_device(&self) -> DeviceSlice<'_, i32> {
        self.chosen.all()
    }

    fn reserve(&mut self, words: usize) -> Result<()> {
        if words > self.host.len() {
            let len = words.next_power_of_two();
            self.host = PinnedBuffer::new(&self.context, len)?;
            self.device = DeviceBuffer::new(&self.context, len)?;
        }
        Ok(())
    }
}

fn write(plan: &SamplePlan, sections: &Sections, num_rows: usize, out: &mut [u32]) {
    let requests = out[sections.requests.clone()].as_chunks_mut::<8>().0;
    for (choice, words) in plan.choices.iter().zip(requests) {
        *words = request(choice);
    }
    for (choice, row) in plan.choices.iter().zip(&mut out[sections.rows.clone()]) {
        *row = choice.row as u32;
    }
    let mut num_edits = 0;
    let mut rows = plan.edits.iter().peekable();
    for row in 0..num_rows {
        out[sections.starts.start + row] = num_edits as u32;
        let penalties = sections.penalties.start + 3 * row;
        out[penalties..penalties + 3].copy_from_slice(&[1.0_f32, 0.0, 0.0].map(f32::to_bits));
        let Some(edits) = rows.next_if(|edits| edits.row == row) else { continue };
        out[penalties..penalties + 3]
            .copy_from_slice(&[edits.repetition, edits.frequency, edits.presence].map(f32::to_bits));
        for edit in &edits.edits {
            out[sections.edits.start + 4 * num_edits..][..4].copy_from_slice(&words_of(edit));
            num_edits += 1;
        }
    }
    out[sections.starts.start + num_rows] = num_edits as u32;
    assert!(rows.next().is_none(), "edits are in the order of their rows");
    let (masks, width) = (&mut out[sections.masks.clone()], sections.masks.len() / num_rows);
    masks.fill(u32::MAX);
    for mask in &plan.masks {
        masks[mask.row * width..][..width].copy_from_slice(&mask.allowed);
    }
}

fn request(choice: &Choice) -> [u32; 8] {
    let (seed, position) = (choice.seed, choice.position as u64);
    [
        choice.temperature.to_bits(),
        choice.top_p.to_bits(),
        choice.min_p.to_bits(),
        u32::try_from(choice.top_k).unwrap_or(u32::MAX >> 1).min(u32::MAX >> 1),
        seed as u32,
        (seed >> 32) as u32,
        position as u32,
        (position >> 32) as u32,
    ]
}

fn words_of(edit: &Edit) -> [u32; 4] {
    let flag = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    let flags = flag(edit.is_banned, BANNED) | flag(edit.is_seen, SEEN);
    [edit.token, edit.bias.to_bits(), edit.count, flags]
}
