//! Who runs in the next step, and with which blocks.

mod output;

pub use output::{BlockCopy, RowsWanted, ScheduledSequence, SchedulerOutput, TableSlice};
