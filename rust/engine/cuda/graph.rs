//! Decode steps recorded once per size and launched as one.

use std::collections::HashMap;

use super::arrays::Place;
use super::driver::Graph;
use super::step::StepSize;
use crate::error::Result;
use crate::sched::{RowsWanted, SchedulerOutput};

/// From this many sequences on sizes are its multiples.
const SIZE_STEP: usize = 8;

/// What a graph was recorded for: the step's size, and where it finds its arrays.
type Key = (StepSize, Place);

/// All graphs so far.
#[derive(Default)]
pub struct Graphs {
    graphs: HashMap<Key, Graph>,
}

impl Graphs {
    /// The graph of this size and place, recorded by `capture` if there is none yet.
    pub fn get(&mut self, size: StepSize, place: Place, capture: impl FnOnce() -> Result<Graph>) -> Result<&Graph> {
        use std::collections::hash_map::Entry;
        match self.graphs.entry((StepSize { num_copies: 0, ..size }, place)) {
            Entry::Occupied(graph) => Ok(graph.into_mut()),
            Entry::Vacant(vacant) => Ok(vacant.insert(capture()?)),
        }
    }
}

/// A step in which every sequence computes one generated token and wants its logits.
pub fn only_decodes(step: &SchedulerOutput) -> bool {
    step.sequences.iter().all(|sequence| {
        let is_generated = sequence.num_tokens() == 1 && sequence.num_prompt_queries() == 0;
        is_generated && matches!(sequence.rows, RowsWanted::Last | RowsWanted::All)
    })
}

/// A decode step with its number of sequences rounded up to one of few, at most `max_seqs`.
pub fn padded(size: StepSize, max_seqs: usize) -> StepSize {
    let num_seqs = match size.num_seqs {
        few if few < SIZE_STEP => few.next_power_of_two(),
        many => many.next_multiple_of(SIZE_STEP),
    };
    let num_seqs = num_seqs.min(max_seqs);
    StepSize { num_tokens: num_seqs, num_seqs, num_decodes: num_seqs, num_logit_rows: num_seqs, ..size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KvGeometry;

    #[test]
    fn few_sizes_serve_all_batches() {
        let mut step = SchedulerOutput::default();
        let sizes: Vec<usize> = (1..=20)
            .map(|_| {
                step.push(3, &[1], RowsWanted::Last, 1, 1);
                assert!(!only_decodes(&step), "the end of a prompt");
                step.sequences.last_mut().expect("just pushed").num_prompt_tokens = 3;
                assert!(only_decodes(&step));
                let size = padded(StepSize::of(&step, &KvGeometry::new(20, 16, &[None])), 18);
                assert_eq!((size.num_decodes, size.num_prompts), (size.num_tokens, 0));
                size.num_tokens
            })
            .take(18)
            .collect();
        assert_eq!(sizes, [1, 2, 4, 4, 8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16, 18, 18]);
        step.push(3, &[1, 2], RowsWanted::Last, 1, 1);
        step.sequences.last_mut().expect("just pushed").num_prompt_tokens = 3;
        assert!(!only_decodes(&step));
    }
}
