//! The forward pass of a step, and what its rows of numbers become.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::answer::Answer;
use crate::error::{Error, Result};
use crate::ids::{RequestId, TokenId};
use crate::isolate::isolated;
use crate::output::TokenLogprob;
use crate::runner::{ModelOutput, ModelRunner};
use crate::sample::{
    SampleContext, SamplePlan, SampleScratch, Sampled, choice_seed, no_finite_logit, sample, token_logprob,
};
use crate::sched::{RowsWanted, ScheduledSequence, Scheduler, SchedulerOutput};
use crate::sequence::Sequence;

/// Something that a step computed for one choice.
#[derive(Debug)]
pub struct StepResult {
    pub request: RequestId,
    pub index: usize,
    pub computed: Computed,
}

#[derive(Debug)]
pub enum Computed {
    Token(Sampled),
    /// A token that the device has chosen: see [`Executor::collect`].
    Chosen {
        position: usize,
    },
    /// Of the whole prompt.
    PromptLogprobs(Vec<TokenLogprob>),
    /// The prompt is complete, and no token is wanted.
    Prompt,
    /// (hidden_size,), unit length.
    Embedding(Vec<f32>),
    Failed(Error),
}

pub struct Executor {
    runner: Box<dyn ModelRunner>,
    output: ModelOutput,
    /// As many as threads sampled at once so far.
    scratch: Mutex<Vec<SampleScratch>>,
    eos: Vec<TokenId>,
}

impl Executor {
    pub fn new(runner: Box<dyn ModelRunner>, eos: Vec<TokenId>) -> Self {
        Self { runner, output: ModelOutput::default(), scratch: Mutex::default(), eos }
    }

    pub fn eos(&self) -> &[TokenId] {
        &self.eos
    }

    pub fn idle(&mut self) {
        self.runner.idle();
    }

    /// Whether a step can be launched before the tokens of the one before are known.
    pub fn can_run_ahead(&mut self) -> bool {
        self.runner.device().is_some()
    }

    /// Puts the step on its way, where a device computes by itself.
    pub fn launch(&mut self, step: &SchedulerOutput) -> Result<()> {
        self.runner.device().map_or(Ok(()), |device| device.launch(step))
    }

    /// Computes the step that was launched, and samples. Of a sequence that has ended meanwhile there is no result. On error
    /// nothing of the step counts.
    pub fn execute(
        &mut self,
        step: &SchedulerOutput,
        scheduler: &Scheduler,
        requests: &mut HashMap<RequestId, Answer>,
        results: &mut Vec<StepResult>,
    ) -> Result<()> {
        let is_chosen = self.choose(step, scheduler, requests)?;
        if !is_chosen {
            match self.runner.device() {
                Some(device) => device.rows(&mut self.output)?,
                None => self.runner.execute(step, &mut self.output)?,
            }
            self.check_output(step)?;
        }
        let (mut row, mut hidden_row) = (0, 0);
        let mut last_rows = Vec::new();
        for scheduled in &step.sequences {
            let rows = row..row + scheduled.num_logit_rows();
            row = rows.end;
            let is_embedding = scheduled.rows == RowsWanted::Embedding;
            hidden_row += usize::from(is_embedding);
            let Some(sequence) = scheduler.get(scheduled.id) else { continue };
            let request = sequence.request_id();
            let answer = requests.get_mut(&request).expect("a request lives as long as its sequences");
            let mut push = |index, computed| results.push(StepResult { request, index, computed });
            if is_embedding {
                push(0, self.embedding(hidden_row - 1));
                continue;
            }
            match isolated(|| self.score_prompt(rows.clone(), scheduled, sequence, answer)) {
                Ok(None) => {}
                Ok(Some(logprobs)) => push(0, Computed::PromptLogprobs(logprobs)),
                Err(defect) => push(0, Computed::Failed(defect)),
            }
            if scheduled.context_len() < sequence.tokens().len() {
                continue;
            }
            if answer.request.params.max_tokens == 0 {
                push(0, Computed::Prompt);
            } else if let Some(last) = rows.last() {
                last_rows.push((last, sequence));
            }
        }
        if !is_chosen {
            return self.sample(&last_rows, requests, results);
        }
        for (_, sequence) in last_rows {
            let request = sequence.request_id();
            let computed = || Computed::Chosen { position: sequence.tokens().len() };
            let chosen = |index| StepResult { request, index, computed: computed() };
            results.extend(choices_at(sequence, &requests[&request]).map(chosen));
        }
        Ok(())
    }

    /// Waits for the tokens that the device chose, and fills them in.
    pub fn collect(&mut self, results: &mut [StepResult]) -> Result<()> {
        let Some(device) = self.runner.device() else { return Ok(()) };
        let mut tokens = device.chosen()?.into_iter();
        for StepResult { computed, .. } in results {
            let Computed::Chosen { position } = *computed else { continue };
            let token = tokens.next().ok_or_else(|| Error::Internal("the device chose too few tokens".into()))?;
            *computed = match token {
                Some(token_id) => Computed::Token(Sampled { token_id, logprob: None }),
                None => Computed::Failed(no_finite_logit(position)),
            };
        }
        Ok(())
    }

    /// Chooses the next tokens of these sequences, each from its row of logits.
    fn sample(
        &mut self,
        rows: &[(usize, &Sequence)],
        requests: &HashMap<RequestId, Answer>,
        results: &mut Vec<StepResult>,
    ) -> Result<()> {
        let mut all_logits = self.output.logits.chunks_exact_mut(self.output.vocab_size).enumerate();
        let jobs: Vec<_> = rows
            .iter()
            .map(|&(row, sequence)| {
                let answer = &requests[&sequence.request_id()];
                let choices = choices_at(sequence, answer);
                let choices: Vec<_> =
                    choices.map(|index| (index, context(index, sequence, answer, &self.eos))).collect();
                let (_, logits) = all_logits.find(|&(i, _)| i == row).expect("rows are in order");
                Mutex::new((logits, choices, Vec::new()))
            })
            .collect();
        let scratch = &self.scratch;
        self.runner.spread(jobs.len(), &|i| {
            let (logits, choices, computed) = &mut *locked(&jobs[i]);
            let mut buffers = locked(scratch).pop().unwrap_or_default();
            for &(index, context) in &*choices {
                let sampled = isolated(|| sample(logits, context, &mut buffers)).and_then(|sampled| sampled);
                computed.push((index, sampled.map_or_else(Computed::Failed, Computed::Token)));
            }
            locked(scratch).push(buffers);
        })?;
        for (job, (_, sequence)) in jobs.into_iter().zip(rows) {
            let (.., computed) = job.into_inner().unwrap_or_else(PoisonError::into_inner);
            let request = sequence.request_id();
            results.extend(computed.into_iter().map(|(index, computed)| StepResult { request, index, computed }));
        }
        Ok(())
    }

    /// Has the device choose the step's tokens. False: it does not choose, or something else is wanted of the logits.
    fn choose(
        &mut self,
        step: &SchedulerOutput,
        scheduler: &Scheduler,
        requests: &HashMap<RequestId, Answer>,
    ) -> Result<bool> {
        if self.runner.device().is_none() {
            return Ok(false);
        }
        let Some(plan) = self.plan(step, scheduler, requests) else { return Ok(false) };
        self.runner.device().map_or(Ok(()), |device| device.choose(&plan))?;
        Ok(true)
    }

    /// The choices of a step, if nothing but tokens is wanted of it.
    fn plan(
        &self,
        step: &SchedulerOutput,
        scheduler: &Scheduler,
        requests: &HashMap<RequestId, Answer>,
    ) -> Option<SamplePlan> {
        let (mut plan, mut row) = (SamplePlan::default(), 0);
        for scheduled in &step.sequences {
            row += scheduled.num_logit_rows();
            let Some(sequence) = scheduler.get(scheduled.id) else { continue };
            let answer = requests.get(&sequence.request_id()).expect("a request lives as long as its sequences");
            if scheduled.rows == RowsWanted::Embedding || answer.prompt_logprobs.is_some() {
                return None;
            }
            let is_complete = scheduled.context_len() >= sequence.tokens().len();
            if !is_complete || answer.request.params.max_tokens == 0 || scheduled.num_logit_rows() == 0 {
                continue;
            }
            for index in choices_at(sequence, answer) {
                if !plan.push(row - 1, self.runner.vocab_size(), &context(index, sequence, answer, &self.eos)) {
                    return None;
                }
            }
        }
        Some(plan)
    }

    /// Runners are foreign code: their rows must be there before anything reads them.
    fn check_output(&self, step: &SchedulerOutput) -> Result<()> {
        let num_rows: usize = step.sequences.iter().map(ScheduledSequence::num_logit_rows).sum();
        let num_hidden = step.sequences.iter().filter(|s| s.rows == RowsWanted::Embedding).count();
        let expected = (num_rows * self.runner.vocab_size(), num_hidden * self.runner.hidden_size());
        let got = (self.output.logits.len(), self.output.hidden.len());
        match got == expected {
            true => Ok(()),
            false => {
                Err(Error::Internal(format!("a step gave (logits, hidden) numbers {got:?} instead of {expected:?}")))
            }
        }
    }

    /// Adds the prompt's log-probabilities that are in `rows`. All of them, once they are complete.
    fn score_prompt(
        &mut self,
        rows: Range<usize>,
        scheduled: &ScheduledSequence,
        sequence: &Sequence,
        answer: &mut Answer,
    ) -> Option<Vec<TokenLogprob>> {
        let logprobs = answer.prompt_logprobs.as_mut()?;
        let num_top = answer.request.params.prompt_logprobs.unwrap_or(0);
        let mut scratch = locked(&self.scratch).pop().unwrap_or_default();
        for (row, position) in rows.zip(scheduled.start..) {
            // A prompt that was preempted half way comes again from its start.
            let Some(&next) = sequence.prompt().get(position + 1).filter(|_| position == logprobs.len()) else {
                continue;
            };
            let logits = &self.output.logits[row_range(row, self.runner.vocab_size())];
            logprobs.push(token_logprob(logits, next, num_top, &mut scratch));
        }
        locked(&self.scratch).push(scratch);
        (scheduled.context_len() >= sequence.prompt().len()).then(|| answer.prompt_logprobs.take())?
    }

    fn embedding(&self, row: usize) -> Computed {
        let hidden = &self.output.hidden[row_range(row, self.runner.hidden_size())];
        let length = hidden.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        match length.is_finite() && length > 0.0 {
            true => Computed::Embedding(hidden.iter().map(|&x| (f64::from(x) / length) as f32).collect()),
            false => Computed::Failed(Error::Internal(format!("the model gave a hidden state of length {length}"))),
        }
    }
}

/// What choice `index` of a request knows.
fn context<'a>(index: usize, sequence: &'a Sequence, answer: &'a Answer, eos: &'a [TokenId]) -> SampleContext<'a> {
    SampleContext {
        params: &answer.request.params,
        seed: choice_seed(answer.request.seed, index),
        prompt: sequence.prompt(),
        output: sequence.output(),
        eos,
    }
}

/// What is locked here stays sound when a thread panics.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn row_range(row: usize, width: usize) -> Range<usize> {
    row * width..(row + 1) * width
}

/// The choices that take their next token from the row after `sequence`: all of them at the prompt's end.
fn choices_at(sequence: &Sequence, answer: &Answer) -> Range<usize> {
    match answer.is_forked {
        true => sequence.index()..sequence.index() + 1,
        false => 0..answer.request.params.n,
    }
}
