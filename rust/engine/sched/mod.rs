//! Who runs in the next step, and with which blocks.

mod chunk;
mod demand;
mod live;
mod output;
mod policy;
mod queue;
mod scheduler;

pub use output::{BlockCopy, BlockSwap, ChosenToken, RowsWanted, ScheduledSequence, SchedulerOutput, TableSlice};
pub use scheduler::{Scheduler, SchedulerConfig};
