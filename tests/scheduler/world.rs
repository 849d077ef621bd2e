//! A small engine: the scheduler, the null model, and a greedy choice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ferrule_engine::SamplingParams;
use ferrule_engine::ids::{RequestId, SequenceId, TokenId};
use ferrule_engine::null::{NullConfig, NullModel};
use ferrule_engine::request::{Request, Task};
use ferrule_engine::runner::{ModelOutput, ModelRunner};
use ferrule_engine::sched::{RowsWanted, ScheduledSequence, Scheduler, SchedulerConfig, SchedulerOutput};
use ferrule_engine::sequence::Sequence;

use crate::reference::{self, Expected, choose};

#[derive(Debug, Clone)]
pub struct Job {
    pub prompt: Vec<TokenId>,
    pub max_tokens: usize,
    pub n: usize,
    pub task: Task,
    pub priority: i32,
    pub salt: Option<String>,
    pub wants_prompt_rows: bool,
}

impl Job {
    pub fn new(prompt: Vec<TokenId>, max_tokens: usize) -> Self {
        Self { prompt, max_tokens, n: 1, task: Task::Generate, priority: 0, salt: None, wants_prompt_rows: false }
    }

    pub fn len(&self) -> usize {
        self.prompt.len() + self.max_tokens
    }

    fn request(&self, id: RequestId) -> Request {
        let prompt_logprobs = self.wants_prompt_rows.then_some(1);
        let params = SamplingParams { n: self.n, prompt_logprobs, ..SamplingParams::greedy(self.max_tokens) };
        Request {
            id,
            prompt: self.prompt.clone(),
            params: Arc::new(params),
            task: self.task,
            priority: self.priority,
            cache_salt: self.salt.clone(),
            seed: 0,
            max_len: self.len(),
        }
    }
}

pub struct World {
    pub scheduler: Scheduler,
    pub step: SchedulerOutput,
    config: SchedulerConfig,
    model: NullModel,
    model_config: NullConfig,
    out: ModelOutput,
    jobs: HashMap<RequestId, Job>,
    rows: HashMap<SequenceId, Vec<Vec<f32>>>,
    next_sequence: u64,
    /// By request and choice, when finished.
    pub results: HashMap<(RequestId, usize), Expected>,
    pub num_copies: usize,
}

impl World {
    pub fn new(config: SchedulerConfig, model_config: NullConfig) -> Self {
        let model = NullModel::new(model_config.clone());
        Self {
            scheduler: Scheduler::new(config.clone(), model.kv_geometry().clone()),
            step: SchedulerOutput::default(),
            config,
            model,
            model_config,
            out: ModelOutput::default(),
            jobs: HashMap::new(),
            rows: HashMap::new(),
            next_sequence: 0,
            results: HashMap::new(),
            num_copies: 0,
        }
    }

    pub fn add(&mut self, job: &Job) -> RequestId {
        let id = RequestId(self.jobs.len() as u64);
        let sequence = self.next_sequence();
        self.scheduler.add(Sequence::new(sequence, &job.request(id)));
        self.jobs.insert(id, job.clone());
        id
    }

    /// schedule, execute, commit, sample: as the engine does, with every promise checked on the way.
    pub fn step(&mut self) {
        self.schedule();
        self.model.execute(&self.step, &mut self.out).unwrap();
        self.scheduler.commit(&self.step);
        self.scheduler.check_invariants();
        let (mut logits, mut hidden) = (self.out.logits.clone(), self.out.hidden.clone());
        for scheduled in self.step.sequences.clone() {
            let num_logits = scheduled.num_logit_rows() * self.model_config.vocab_size;
            let num_hidden = usize::from(scheduled.rows == RowsWanted::Embedding) * self.model_config.hidden_size;
            let rows = logits.drain(..num_logits).collect::<Vec<_>>();
            self.take_rows(&scheduled, &rows, hidden.drain(..num_hidden).collect());
            self.scheduler.check_invariants();
        }
        assert!(logits.is_empty() && hidden.is_empty(), "rows that nobody wanted");
    }

    pub fn run(&mut self, max_steps: usize) {
        let mut num_steps = 0;
        while self.scheduler.has_work() {
            self.step();
            num_steps += 1;
            assert!(num_steps <= max_steps, "somebody starves: still running after {max_steps} steps");
        }
    }

    /// Ends every choice of a request, whatever its state.
    pub fn cancel(&mut self, id: RequestId) {
        for sequence in (0..self.next_sequence).map(SequenceId) {
            if self.scheduler.get(sequence).is_some_and(|live| live.request_id() == id) {
                self.scheduler.finish(sequence).unwrap();
                self.scheduler.check_invariants();
            }
        }
    }

    pub fn expected(&self, id: RequestId, index: usize) -> Expected {
        let job = &self.jobs[&id];
        let max_tokens = if job.task == Task::Embed { 0 } else { job.max_tokens };
        let mut expected = reference::compute(&self.model_config, &job.prompt, max_tokens, index);
        if job.task != Task::Embed {
            expected.embedding.clear();
        }
        if job.task == Task::Embed || !job.wants_prompt_rows || index > 0 {
            expected.prompt_rows.clear();
        }
        expected
    }

    fn next_sequence(&mut self) -> SequenceId {
        self.next_sequence += 1;
        SequenceId(self.next_sequence - 1)
    }

    fn schedule(&mut self) {
        let had_work = self.scheduler.has_work();
        self.scheduler.schedule(&mut self.step);
        self.scheduler.check_invariants();
        self.num_copies += self.step.copies.len();
        let num_rows: usize = self.step.sequences.iter().map(ScheduledSequence::num_logit_rows).sum();
        let ids: HashSet<SequenceId> = self.step.sequences.iter().map(|scheduled| scheduled.id).collect();
        assert!(self.step.num_tokens() <= self.config.max_num_batched_tokens);
        assert!(num_rows <= self.config.max_logit_rows);
        assert_eq!(ids.len(), self.step.sequences.len(), "a sequence is scheduled twice");
        assert!(self.step.preempted.iter().all(|id| !ids.contains(id)), "a victim is scheduled");
        assert_eq!(had_work, !self.step.is_empty(), "work stands still");
        for scheduled in &self.step.sequences {
            let sequence = self.scheduler.get(scheduled.id).unwrap();
            assert!(scheduled.num_tokens() > 0);
            assert_eq!(scheduled.start, sequence.num_computed_tokens());
            assert_eq!(
                self.step.tokens[scheduled.tokens.clone()],
                sequence.tokens()[scheduled.start..scheduled.context_len()]
            );
        }
    }

    fn take_rows(&mut self, scheduled: &ScheduledSequence, logits: &[f32], embedding: Vec<f32>) {
        let rows: Vec<Vec<f32>> = logits.chunks(self.model_config.vocab_size).map(<[f32]>::to_vec).collect();
        let sequence = self.scheduler.get(scheduled.id).unwrap();
        let job = self.jobs[&sequence.request_id()].clone();
        if scheduled.rows == RowsWanted::All {
            self.rows.entry(scheduled.id).or_default().extend(rows.iter().cloned());
        }
        let at_end = sequence.num_computed_tokens() == sequence.tokens().len();
        if !at_end {
            assert_ne!(scheduled.rows, RowsWanted::Last, "a row before the end");
        } else if job.task == Task::Embed || job.max_tokens == 0 {
            self.finish(scheduled.id, embedding);
        } else {
            self.sample(scheduled.id, &job, rows.last().expect("the end has a row"));
        }
    }

    fn sample(&mut self, id: SequenceId, job: &Job, row: &[f32]) {
        let sequence = self.scheduler.get(id).unwrap();
        let mut choices = vec![(id, sequence.index())];
        if sequence.output().is_empty() {
            for index in 1..job.n {
                let child = self.next_sequence();
                self.scheduler.fork(id, child, index);
                choices.push((child, index));
            }
        }
        for (id, index) in choices {
            self.scheduler.append(id, choose(row, index));
            if self.scheduler.get(id).unwrap().output().len() == job.max_tokens {
                self.finish(id, Vec::new());
            }
        }
    }

    fn finish(&mut self, id: SequenceId, embedding: Vec<f32>) {
        let sequence = self.scheduler.finish(id).unwrap();
        let prompt_rows = self.rows.remove(&id).unwrap_or_default();
        let result = Expected { output: sequence.output().to_vec(), prompt_rows, embedding };
        self.results.insert((sequence.request_id(), sequence.index()), result);
    }
}
