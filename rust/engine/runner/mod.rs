//! The border between scheduling and computing: plain data goes in, rows of numbers come out.

mod cpu;
mod cuda;
mod weights;

pub use cpu::{CpuParts, CpuRunner};
pub use cuda::{CudaParts, CudaRunner};
pub use weights::{
    CpuWeights, LoadedWeights, MatrixPlace, attn_output, down, expert_downs, expert_gates, gate_up, layer_weights,
    load_weights, num_bytes, qkv, router,
};

use crate::error::Result;
use crate::ids::TokenId;
use crate::kv::KvGeometry;
use crate::profile::Phase;
use crate::sample::SamplePlan;
use crate::sched::SchedulerOutput;

/// The rows that a step computed for the sequences that wanted some, in the order of
/// [`SchedulerOutput::sequences`], and in token order within a sequence.
#[derive(Debug, Default)]
pub struct ModelOutput {
    pub vocab_size: usize,
    pub hidden_size: usize,
    /// (num_logit_rows, vocab_size): for each sequence, [`crate::sched::ScheduledSequence::num_logit_rows`] rows.
    pub logits: Vec<f32>,
    /// (num_embedding_rows, hidden_size): one row per sequence with `RowsWanted::Embedding`, after the final norm.
    pub hidden: Vec<f32>,
}

/// Computes steps. One exists per engine, on the engine's thread; it owns the weights and the KV memory.
pub trait ModelRunner: Send {
    fn vocab_size(&self) -> usize;

    fn hidden_size(&self) -> usize;

    /// The groups of layers and the number of blocks that the KV memory was allocated for.
    fn kv_geometry(&self) -> &KvGeometry;

    /// Copies blocks, writes the scheduled tokens' keys and values, and fills `out` (its buffers are reused).
    fn execute(&mut self, step: &SchedulerOutput, out: &mut ModelOutput) -> Result<()>;

    /// The halves of `execute`, where the device computes by itself and chooses tokens.
    fn device(&mut self) -> Option<&mut dyn DeviceRunner> {
        None
    }

    /// Calls `work` once with each number below `count`, on as many threads as the runner computes with.
    fn spread(&mut self, count: usize, work: &(dyn Fn(usize) + Sync)) -> Result<()> {
        (0..count).for_each(work);
        Ok(())
    }

    /// Nothing is left to compute: the time for work that nobody waits for.
    fn idle(&mut self) {}
}

/// Steps on a device that does in order what it was asked for, while the engine's thread goes on.
///
/// A step is a `launch`, then `choose` or `rows`. Its tokens stay on the device until `chosen` is asked for them, so that
/// the step after, which computes them, can be launched before anybody knows them.
pub trait DeviceRunner {
    /// Puts a step on its way. `step.chosen` are tokens that the last `choose` chose.
    fn launch(&mut self, step: &SchedulerOutput) -> Result<()>;

    /// Waits for the rows of the step that was launched last: see [`ModelRunner::execute`].
    fn rows(&mut self, out: &mut ModelOutput) -> Result<()>;

    /// Has tokens chosen from the logits of the step that was launched last. Before the next one `chosen` is asked.
    fn choose(&mut self, plan: &SamplePlan) -> Result<()>;

    /// Waits for what was chosen last, in the order of the plan. None: no logit of the row is finite. On error a step that
    /// was launched meanwhile is given up.
    fn chosen(&mut self) -> Result<Vec<Option<TokenId>>>;
}

/// A step in which every sequence has one token only decodes.
fn phase(step: &SchedulerOutput) -> Phase {
    if step.num_tokens() > step.sequences.len() { Phase::Prefill } else { Phase::Decode }
}
