//! The engine: one loop around scheduler, runner and sampler.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::admit::Limits;
use crate::answer::Answer;
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::execute::{Computed, Executor, StepResult};
use crate::ids::{RequestId, SequenceId};
use crate::intake::{Intake, Submission};
use crate::isolate::{isolated, panic_message};
use crate::metrics::EngineStats;
use crate::output::Event;
use crate::runner::ModelRunner;
use crate::sched::{Scheduler, SchedulerConfig, SchedulerOutput};
use crate::sequence::Sequence;
use crate::snapshot::{Snapshot, runs};
use crate::text::Tokenizer;

/// Logits of one step may take this much, as long as every sequence gets its row.
const LOGIT_BYTES: usize = 64 << 20;

/// Rows of logits in one step.
pub(crate) fn max_logit_rows(config: &EngineConfig, vocab_size: usize) -> usize {
    config.max_num_seqs.max(LOGIT_BYTES / (4 * vocab_size.max(1)))
}

/// Everything on the engine's thread. Callers reach it through [`crate::EngineHandle`].
pub struct Engine {
    executor: Executor,
    scheduler: Scheduler,
    tokenizer: Option<Arc<Tokenizer>>,
    intake: Arc<Intake>,
    requests: HashMap<RequestId, Answer>,
    next_sequence_id: u64,
    /// The step in progress; buffers are reused.
    step: SchedulerOutput,
    results: Vec<StepResult>,
    /// Of the step before, whose tokens are still on the device. Empty: there are none.
    flight: Vec<StepResult>,
    /// Launch a step before the tokens of the one before are known.
    runs_ahead: bool,
    /// Last events, sent once `stats` show what ended.
    farewells: Vec<(Answer, Event)>,
    counters: EngineStats,
    stats: Arc<Mutex<EngineStats>>,
}

/// How a request ended.
enum Ending {
    Done,
    Failed(Error),
    Cancelled,
    /// Nobody listens any more.
    Gone,
}

impl Engine {
    pub(crate) fn new(
        runner: Box<dyn ModelRunner>,
        tokenizer: Option<Arc<Tokenizer>>,
        config: &EngineConfig,
        intake: Arc<Intake>,
        stats: Arc<Mutex<EngineStats>>,
    ) -> Self {
        let scheduler_config = SchedulerConfig {
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            policy: config.policy,
            enable_prefix_caching: config.enable_prefix_caching,
            max_logit_rows: max_logit_rows(config, runner.vocab_size()),
        };
        let scheduler = Scheduler::new(scheduler_config, runner.kv_geometry().clone());
        let eos = tokenizer.as_ref().map(|tokenizer| tokenizer.eos().to_vec()).unwrap_or_default();
        let mut executor = Executor::new(runner, eos);
        let mut engine = Self {
            runs_ahead: config.async_scheduling && executor.can_run_ahead(),
            executor,
            scheduler,
            tokenizer,
            intake,
            requests: HashMap::new(),
            next_sequence_id: 0,
            step: SchedulerOutput::default(),
            results: Vec::new(),
            flight: Vec::new(),
            farewells: Vec::new(),
            counters: EngineStats::default(),
            stats,
        };
        engine.publish();
        engine
    }

    pub(crate) fn limits(&self, config: &EngineConfig) -> Limits {
        Limits { max_num_seqs: config.max_num_seqs, max_tokens_alone: self.scheduler.max_tokens_alone() }
    }

    /// Steps until the intake is closed, then ends what is left. A panic ends everything with an error.
    pub(crate) fn run(mut self) {
        let stepped = catch_unwind(AssertUnwindSafe(|| {
            while self.intake.wait(self.is_busy()) {
                self.step();
                if !self.is_busy() {
                    self.executor.idle();
                }
            }
            self.cancel_all();
        }));
        if let Err(panic) = stepped {
            self.abandon(Error::Internal(format!("the engine stopped: {}", panic_message(&*panic))));
        }
    }

    /// Drain → schedule → execute → commit → emit: see the crate's documentation.
    ///
    /// Where a device computes by itself, the next step is scheduled and launched first, if it can be without the tokens
    /// of the one before; these are collected and emitted while it runs.
    pub fn step(&mut self) {
        self.drain();
        let launched = self.launch_ahead();
        if self.collect() {
            match launched.unwrap_or_else(|| self.launch()).and_then(|()| self.execute()) {
                Ok(()) => self.commit(),
                Err(error) => self.fail_step(error),
            }
            if !self.runs_ahead {
                self.collect();
            }
        }
        self.publish();
        self.say_farewells();
    }

    fn is_busy(&self) -> bool {
        self.scheduler.has_work() || !self.flight.is_empty()
    }

    fn drain(&mut self) {
        let batch = self.intake.drain();
        for submission in batch.submissions {
            self.add(submission);
        }
        for id in batch.cancelled {
            self.end(id, Ending::Cancelled);
        }
        for watcher in batch.watchers {
            watcher(self.snapshot());
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut requests: Vec<_> = self.requests.values().map(|answer| answer.snapshot(&self.scheduler)).collect();
        requests.sort_unstable_by_key(|request| request.id);
        Snapshot { blocks: runs(self.scheduler.block_states()), requests }
    }

    fn add(&mut self, submission: Submission) {
        let sequence = Sequence::new(self.new_sequence_id(), &submission.request);
        let answer = Answer::new(submission, sequence.id(), self.tokenizer.as_ref());
        self.requests.insert(answer.request.id, answer);
        self.scheduler.add(sequence);
    }

    fn new_sequence_id(&mut self) -> SequenceId {
        self.next_sequence_id += 1;
        SequenceId(self.next_sequence_id)
    }

    fn schedule(&mut self) {
        self.scheduler.schedule(&mut self.step);
        let now = Instant::now();
        for scheduled in &self.step.sequences {
            let sequence = self.scheduler.get(scheduled.id).expect("a scheduled sequence is the scheduler's");
            let answer = self.requests.get_mut(&sequence.request_id()).expect("a sequence has its request");
            if answer.begin_step(now) {
                self.counters.num_prompt_tokens += answer.request.prompt.len() as u64;
            }
        }
        self.publish();
    }

    /// The next step begins on the device. None: it needs the tokens of the one before.
    fn launch_ahead(&mut self) -> Option<Result<()>> {
        if !self.runs_ahead || self.flight.is_empty() || !self.scheduler.can_run_ahead() {
            return None;
        }
        self.schedule();
        (!self.step.is_empty()).then(|| self.launch_step())
    }

    fn launch(&mut self) -> Result<()> {
        self.schedule();
        match self.step.is_empty() {
            // A request that fits alone can always run; parking here would leave its caller waiting for ever.
            true if self.scheduler.has_work() => Err(Error::Internal("no waiting request can be scheduled".into())),
            true => Ok(()),
            false => self.launch_step(),
        }
    }

    fn launch_step(&mut self) -> Result<()> {
        self.counters.num_steps += 1;
        self.executor.launch(&self.step)
    }

    fn execute(&mut self) -> Result<()> {
        match self.step.is_empty() {
            true => Ok(()),
            false => self.executor.execute(&self.step, &self.scheduler, &mut self.requests, &mut self.results),
        }
    }

    /// Emits what the step computed, or keeps it until its tokens are collected.
    fn commit(&mut self) {
        self.scheduler.commit(&self.step);
        self.fork_choices();
        let mut num_chosen = 0;
        for result in &self.results {
            let sequence = || self.requests[&result.request].choices[result.index].sequence;
            let sequence = || sequence().expect("a choice with a token has a sequence");
            match &result.computed {
                Computed::Token(sampled) => self.scheduler.append(sequence(), sampled.token_id),
                Computed::Chosen { .. } => {
                    self.scheduler.expect(sequence(), num_chosen);
                    num_chosen += 1;
                }
                _ => {}
            }
        }
        match num_chosen {
            0 => self.emit(),
            _ => self.flight.append(&mut self.results),
        }
    }

    /// The tokens that the device chose after the step before: emits them. False: the device failed.
    fn collect(&mut self) -> bool {
        if self.flight.is_empty() {
            return true;
        }
        if let Err(error) = self.executor.collect(&mut self.flight) {
            self.fail_all(&error);
            return false;
        }
        for result in &self.flight {
            let sequence = self.requests.get(&result.request).and_then(|answer| answer.choices[result.index].sequence);
            if let (Computed::Token(sampled), Some(sequence)) = (&result.computed, sequence) {
                self.scheduler.append(sequence, sampled.token_id);
            }
        }
        self.results.append(&mut self.flight);
        self.emit();
        self.publish();
        self.say_farewells();
        true
    }

    /// Gives every choice that got its first token a sequence, while its parent is still the bare prompt.
    fn fork_choices(&mut self) {
        for result in &self.results {
            let answer = self.requests.get_mut(&result.request).expect("a result has its request");
            if result.index > 0 && answer.choices[result.index].sequence.is_none() {
                let parent = answer.choices[0].sequence.expect("choice 0 is the parent");
                self.next_sequence_id += 1;
                let child = SequenceId(self.next_sequence_id);
                self.scheduler.fork(parent, child, result.index);
                answer.choices[result.index].sequence = Some(child);
                answer.is_forked = true;
            }
        }
    }

    fn emit(&mut self) {
        let now = Instant::now();
        let mut results = std::mem::take(&mut self.results);
        for result in results.drain(..) {
            // A sink that broke off, or an error, may have ended the request a moment ago.
            if self.requests.contains_key(&result.request) {
                self.emit_result(result, now);
            }
        }
        self.results = results;
    }

    fn emit_result(&mut self, result: StepResult, now: Instant) {
        let StepResult { request, index, computed } = result;
        let answer = self.requests.get_mut(&request).expect("checked by the caller");
        let flow = match computed {
            Computed::Failed(error) => return self.end(request, Ending::Failed(error)),
            Computed::Chosen { .. } => unreachable!("tokens are collected before they are emitted"),
            Computed::PromptLogprobs(logprobs) => answer.send(Event::PromptLogprobs(logprobs)),
            Computed::Embedding(embedding) => answer.finish_all(Event::Embedding(embedding)),
            Computed::Prompt => answer.finish_empty(),
            Computed::Token(sampled) => {
                self.counters.num_generated_tokens += 1;
                let eos = self.executor.eos();
                let delta = match isolated(|| answer.push_token(index, sampled, eos, now)) {
                    Ok(delta) => delta,
                    Err(defect) => return self.end(request, Ending::Failed(defect)),
                };
                if delta.finish_reason.is_some() {
                    answer.release(index, &mut self.scheduler);
                }
                answer.send(Event::Delta(delta))
            }
        };
        match flow {
            ControlFlow::Break(()) => self.end(request, Ending::Gone),
            ControlFlow::Continue(()) if answer.is_finished() => self.end(request, Ending::Done),
            ControlFlow::Continue(()) => {}
        }
    }

    /// The step came to nothing: what its sequences have in the cache is unknown, so their requests end.
    fn fail_step(&mut self, error: Error) {
        self.results.clear();
        self.step.preempted.iter().for_each(|&id| self.scheduler.forget_swapped(id));
        let scheduled = self.step.sequences.iter().filter_map(|s| self.scheduler.get(s.id));
        let mut failed: Vec<RequestId> = scheduled.map(Sequence::request_id).collect();
        if failed.is_empty() {
            failed.extend(self.requests.keys());
        }
        for id in failed {
            self.end(id, Ending::Failed(error.clone()));
        }
    }

    /// The device failed at some time after the last tokens: nothing that it holds can be trusted.
    fn fail_all(&mut self, error: &Error) {
        self.results.clear();
        self.flight.clear();
        for id in self.requests.keys().copied().collect::<Vec<_>>() {
            self.end(id, Ending::Failed(error.clone()));
        }
        self.scheduler.forget_cached();
    }

    /// Frees what the request holds. Its last event is sent after the step's.
    fn end(&mut self, id: RequestId, ending: Ending) {
        let Some(answer) = self.requests.get_mut(&id) else { return };
        for index in 0..answer.choices.len() {
            answer.release(index, &mut self.scheduler);
        }
        let mut answer = self.requests.remove(&id).expect("found above");
        let event = match ending {
            Ending::Done => {
                self.counters.num_finished += 1;
                Event::Done(answer.metrics(Instant::now()))
            }
            Ending::Failed(error) => Event::Error(error),
            Ending::Cancelled => {
                self.counters.num_cancelled += 1;
                Event::Error(Error::Cancelled(format!("request {id}, by its caller")))
            }
            Ending::Gone => {
                self.counters.num_cancelled += 1;
                return;
            }
        };
        self.farewells.push((answer, event));
    }

    fn publish(&mut self) {
        let Self { scheduler, counters, .. } = self;
        counters.num_running = scheduler.num_running();
        counters.num_waiting = scheduler.num_waiting();
        counters.num_blocks = scheduler.num_blocks();
        counters.num_used_blocks = scheduler.num_used_blocks();
        counters.num_preemptions = scheduler.num_preemptions();
        counters.num_swapped_blocks = scheduler.num_swapped_blocks();
        counters.prefix_cache_queries = scheduler.prefix_cache_queries();
        counters.prefix_cache_hits = scheduler.prefix_cache_hits();
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone_from(counters);
        self.intake.set_num_waiting(counters.num_waiting);
    }

    fn say_farewells(&mut self) {
        for (mut answer, event) in self.farewells.drain(..) {
            // Whether anybody listens to a last event changes nothing.
            let _ = answer.send(event);
        }
    }

    fn cancel_all(&mut self) {
        let shut_down = || Error::Cancelled("the engine was shut down".into());
        self.drain();
        let ids: Vec<RequestId> = self.requests.keys().copied().collect();
        self.counters.num_cancelled += ids.len() as u64;
        for id in ids {
            self.end(id, Ending::Failed(shut_down()));
        }
        self.publish();
        self.say_farewells();
    }

    /// After a panic nothing but the sinks can be trusted: each gets the error, and so does every new request.
    fn abandon(mut self, error: Error) {
        self.intake.close(error.clone());
        for mut submission in self.intake.drain().submissions {
            let _ = catch_unwind(AssertUnwindSafe(|| (submission.sink)(Event::Error(error.clone()))));
        }
        for answer in self.requests.values_mut() {
            let _ = answer.send(Event::Error(error.clone()));
        }
        self.say_farewells();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::ids::TokenId;
    use crate::null::{NullConfig, NullModel};
    use crate::request::{Request, SamplingParams, Task};

    fn submit(intake: &Intake, id: u64, logit_bias: Vec<(TokenId, f32)>) -> Receiver<Event> {
        let params = Arc::new(SamplingParams { logit_bias, ..SamplingParams::greedy(5) });
        let (id, prompt) = (RequestId(id), vec![1, 2, 3]);
        let request =
            Request { id, prompt, params, task: Task::Generate, priority: 0, cache_salt: None, seed: 1, max_len: 8 };
        let (sender, events) = channel();
        let sink = Box::new(move |event| sender.send(event).map_or(ControlFlow::Break(()), ControlFlow::Continue));
        intake.push(Submission { request, sink, submitted: Instant::now() }).unwrap();
        events
    }

    /// The defect: a request that no check let through, with a bias for a token that is none.
    #[test]
    fn a_defect_in_one_requests_sampling_is_its_own() {
        let config = EngineConfig::default();
        let intake = Arc::new(Intake::new(config.max_queue_len));
        let model = NullModel::new(NullConfig::default());
        let mut engine = Engine::new(Box::new(model), None, &config, intake.clone(), Arc::default());
        let before = submit(&intake, 1, Vec::new());
        let broken = submit(&intake, 2, vec![(1000, 1.0)]);
        let after = submit(&intake, 3, Vec::new());
        engine.step();
        while engine.scheduler.has_work() {
            engine.step();
        }
        let tokens = |events: Receiver<Event>| {
            let token = |event| match event {
                Event::Delta(delta) => delta.token_ids,
                _ => Vec::new(),
            };
            events.try_iter().flat_map(token).collect::<Vec<_>>()
        };
        assert!(matches!(broken.try_recv(), Ok(Event::Error(Error::Internal(why))) if why.contains("this request")));
        let said = tokens(before);
        assert_eq!((said.len(), said), (5, tokens(after)));
        assert_eq!(engine.scheduler.num_used_blocks(), 0);
    }
}
