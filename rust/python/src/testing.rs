//! The real scheduler, cache and null model, step by step, for property tests.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ferrule_engine::null::{NullConfig, NullModel};
use ferrule_engine::request::{Request, Task};
use ferrule_engine::runner::{ModelOutput, ModelRunner};
use ferrule_engine::sched::{Scheduler, SchedulerConfig, SchedulerOutput};
use ferrule_engine::sequence::Sequence;
use ferrule_engine::{RequestId, SequenceId, TokenId};
use pyo3::exceptions::{PyAssertionError, PyKeyError, PyValueError};
use pyo3::prelude::*;

use crate::errors::Raise;
use crate::params::SamplingParams;

/// An engine whose steps the caller makes, with greedy choice and without text. For tests of Ferrule itself.
#[pyclass(module = "ferrule.testing")]
pub struct SchedulerHarness {
    scheduler: Scheduler,
    runner: NullModel,
    step: SchedulerOutput,
    output: ModelOutput,
    next_id: u64,
    max_tokens: HashMap<SequenceId, usize>,
    finished: HashMap<SequenceId, Vec<TokenId>>,
}

#[pymethods]
impl SchedulerHarness {
    #[new]
    #[pyo3(signature = (*, num_blocks=32, block_size=4, vocab_size=4, windows=None, max_num_seqs=8,
        max_num_batched_tokens=16, enable_prefix_caching=true))]
    fn new(
        num_blocks: usize,
        block_size: usize,
        vocab_size: usize,
        windows: Option<Vec<Option<usize>>>,
        max_num_seqs: usize,
        max_num_batched_tokens: usize,
        enable_prefix_caching: bool,
    ) -> Self {
        let windows = windows.unwrap_or_else(|| vec![None]);
        let runner =
            NullModel::new(NullConfig { num_blocks, block_size, vocab_size, windows, ..NullConfig::default() });
        let config = SchedulerConfig {
            max_num_seqs,
            max_num_batched_tokens,
            enable_prefix_caching,
            policy: ferrule_engine::config::Policy::Continuous,
            max_logit_rows: max_num_batched_tokens.max(max_num_seqs),
        };
        Self {
            scheduler: Scheduler::new(config, runner.kv_geometry().clone()),
            runner,
            step: SchedulerOutput::default(),
            output: ModelOutput::default(),
            next_id: 0,
            max_tokens: HashMap::new(),
            finished: HashMap::new(),
        }
    }

    /// Longest prompt plus output that fits.
    #[getter]
    fn max_tokens_alone(&self) -> usize {
        self.scheduler.max_tokens_alone()
    }

    /// A sequence to the waiting queue; its id.
    #[pyo3(signature = (prompt, max_tokens, *, priority=0, cache_salt=None))]
    fn add(
        &mut self,
        prompt: Vec<TokenId>,
        max_tokens: usize,
        priority: i32,
        cache_salt: Option<String>,
    ) -> PyResult<u64> {
        let (len, limit) = (prompt.len() + max_tokens, self.scheduler.max_tokens_alone());
        if prompt.is_empty() || max_tokens == 0 || len > limit {
            return Err(PyValueError::new_err(format!("{len} tokens: at least one of each kind, at most {limit}")));
        }
        let params = SamplingParams::default().0;
        let request = Request {
            id: RequestId(self.next_id),
            prompt,
            params: Arc::new(ferrule_engine::SamplingParams { max_tokens, temperature: 0.0, ..params }),
            task: Task::Generate,
            priority,
            cache_salt,
            seed: 0,
            max_len: len,
        };
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.max_tokens.insert(id, max_tokens);
        checked(|| self.scheduler.add(Sequence::new(id, &request)))?;
        Ok(id.0)
    }

    /// Ends a sequence in any state.
    fn cancel(&mut self, sequence: u64) -> PyResult<()> {
        checked(|| self.scheduler.finish(SequenceId(sequence)))?;
        self.max_tokens.remove(&SequenceId(sequence));
        Ok(())
    }

    /// One step of the engine; the number of tokens that it computed.
    fn step(&mut self) -> PyResult<usize> {
        checked(|| self.scheduler.schedule(&mut self.step))?;
        self.runner.execute(&self.step, &mut self.output).raise()?;
        checked(|| self.scheduler.commit(&self.step))?;
        let mut rows = self.output.logits.chunks_exact(self.output.vocab_size.max(1));
        for sequence in &self.step.sequences {
            let Some(row) = rows.by_ref().take(sequence.num_logit_rows()).last() else { continue };
            let token = argmax(row);
            checked(|| self.scheduler.append(sequence.id, token))?;
            let done =
                self.scheduler.get(sequence.id).is_some_and(|s| s.output().len() == self.max_tokens[&sequence.id]);
            if done && let Some(sequence) = checked(|| self.scheduler.finish(sequence.id))? {
                self.finished.insert(sequence.id(), sequence.output().to_vec());
            }
        }
        Ok(self.step.num_tokens())
    }

    /// The tokens that a sequence has generated so far.
    fn output(&self, sequence: u64) -> PyResult<Vec<TokenId>> {
        let id = SequenceId(sequence);
        let running = || self.scheduler.get(id).map(|sequence| sequence.output().to_vec());
        self.finished.get(&id).cloned().or_else(running).ok_or_else(|| PyKeyError::new_err(id.0))
    }

    fn is_finished(&self, sequence: u64) -> bool {
        self.finished.contains_key(&SequenceId(sequence))
    }

    /// Raises AssertionError with what does not hold.
    fn check_invariants(&self) -> PyResult<()> {
        checked(|| self.scheduler.check_invariants())
    }

    #[getter]
    fn num_running(&self) -> usize {
        self.scheduler.num_running()
    }

    #[getter]
    fn num_waiting(&self) -> usize {
        self.scheduler.num_waiting()
    }

    #[getter]
    fn num_used_blocks(&self) -> usize {
        self.scheduler.num_used_blocks()
    }

    #[getter]
    fn num_preemptions(&self) -> u64 {
        self.scheduler.num_preemptions()
    }

    /// In tokens.
    #[getter]
    fn prefix_cache_hits(&self) -> u64 {
        self.scheduler.prefix_cache_hits()
    }
}

/// The lowest id wins ties.
fn argmax(row: &[f32]) -> TokenId {
    let mut best = 0;
    for (id, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = id;
        }
    }
    best as TokenId
}

/// A broken invariant is an AssertionError that names it, as Python's tests expect.
fn checked<T>(call: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        PyAssertionError::new_err(text.unwrap_or_else(|| "an invariant does not hold".into()))
    })
}
