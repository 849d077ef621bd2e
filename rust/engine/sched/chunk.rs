//! Which of a sequence's tokens a step computes.

use super::RowsWanted;
use crate::request::Task;
use crate::sequence::Sequence;

/// What is left of a step's limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub num_tokens: usize,
    pub num_logit_rows: usize,
    /// Free blocks that the tokens of running sequences will need in later steps.
    pub num_promised_blocks: usize,
}

/// The next tokens of a sequence; none if it has nothing to compute or no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chunk {
    pub num_tokens: usize,
    pub rows: RowsWanted,
}

impl Chunk {
    /// At most `max_tokens`, within the rows of `room`.
    pub fn next(sequence: &Sequence, max_tokens: usize, room: &Room) -> Self {
        let num_remaining = sequence.num_remaining_tokens();
        let num_tokens = num_remaining.min(max_tokens);
        if let Some(num_scored) = sequence.num_scored_tokens() {
            return Self::of_scored_prompt(num_tokens, num_scored - sequence.num_computed_tokens(), room);
        }
        let rows = match num_tokens == num_remaining {
            true => rows_at_end(sequence),
            false => RowsWanted::None,
        };
        match rows == RowsWanted::Last && room.num_logit_rows == 0 && num_tokens > 0 {
            true => Self { num_tokens: num_tokens - 1, rows: RowsWanted::None },
            false => Self { num_tokens, rows },
        }
    }

    /// A prompt whose log-probabilities are wanted: each row is delivered once, also after a preemption.
    fn of_scored_prompt(num_tokens: usize, num_delivered: usize, room: &Room) -> Self {
        match num_delivered {
            0 => Self { num_tokens: num_tokens.min(room.num_logit_rows), rows: RowsWanted::All },
            _ => Self { num_tokens: num_tokens.min(num_delivered), rows: RowsWanted::None },
        }
    }

    pub fn num_logit_rows(&self) -> usize {
        match self.rows {
            RowsWanted::None | RowsWanted::Embedding => 0,
            RowsWanted::Last => 1,
            RowsWanted::All => self.num_tokens,
        }
    }
}

fn rows_at_end(sequence: &Sequence) -> RowsWanted {
    match sequence.task() {
        Task::Embed => RowsWanted::Embedding,
        Task::Generate if sequence.params().max_tokens == 0 => RowsWanted::None,
        Task::Generate => RowsWanted::Last,
    }
}
