//! Who runs in the next step, and with which blocks.

mod output;
mod scheduler;

pub use output::{BlockCopy, RowsWanted, ScheduledSequence, SchedulerOutput, TableSlice};
pub use scheduler::{Scheduler, SchedulerConfig};
