//! The answer to one request while it grows: text, stop conditions, figures, and the way to the caller.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crate::choice::ChoiceState;
use crate::ids::{SequenceId, TokenId};
use crate::intake::{Sink, Submission};
use crate::metrics::RequestMetrics;
use crate::output::{Delta, Event, FinishReason, TokenLogprob};
use crate::request::Request;
use crate::sample::Sampled;
use crate::sched::Scheduler;
use crate::sequence::Sequence;
use crate::snapshot::{RequestSnapshot, ranges};
use crate::text::Tokenizer;

pub struct Answer {
    pub request: Request,
    pub choices: Vec<ChoiceState>,
    /// Every choice has had a sequence of its own.
    pub is_forked: bool,
    /// Log-probabilities of the prompt so far; None: not asked for, or sent.
    pub prompt_logprobs: Option<Vec<TokenLogprob>>,
    sink: Sink,
    submitted: Instant,
    first_step: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    metrics: RequestMetrics,
}

impl Answer {
    pub fn new(submission: Submission, first: SequenceId, tokenizer: Option<&Arc<Tokenizer>>) -> Self {
        let Submission { request, sink, submitted } = submission;
        let mut choices = ChoiceState::all(&request.params, tokenizer);
        choices[0].sequence = Some(first);
        let prompt_logprobs = request.params.prompt_logprobs.map(|_| Vec::with_capacity(request.prompt.len()));
        let metrics =
            RequestMetrics { num_prompt_tokens: request.prompt.len(), seed: request.seed, ..Default::default() };
        let is_forked = choices.len() == 1;
        let (first_step, first_token, last_token) = (None, None, None);
        Self {
            request,
            choices,
            is_forked,
            prompt_logprobs,
            sink,
            submitted,
            first_step,
            first_token,
            last_token,
            metrics,
        }
    }

    /// A step that runs this request begins. True: it is the first.
    pub fn begin_step(&mut self, now: Instant) -> bool {
        let first = self.first_step.is_none();
        self.first_step.get_or_insert(now);
        first
    }

    /// A token of choice `index`. The caller sees it, and what it ends.
    pub fn push_token(&mut self, index: usize, sampled: Sampled, eos: &[TokenId], now: Instant) -> Delta {
        self.first_token.get_or_insert(now);
        self.last_token = Some(now);
        self.metrics.num_generated_tokens += 1;
        self.choices[index].push(index, sampled, &self.request, eos)
    }

    /// The answer to a request that wanted no tokens.
    pub fn finish_empty(&mut self) -> ControlFlow<()> {
        (0..self.choices.len()).try_for_each(|index| {
            self.choices[index].finished = true;
            self.send(Event::Delta(Delta { finish_reason: Some(FinishReason::Length), ..Delta::new(index) }))
        })
    }

    /// `event` is the whole answer.
    pub fn finish_all(&mut self, event: Event) -> ControlFlow<()> {
        self.choices.iter_mut().for_each(|choice| choice.finished = true);
        self.send(event)
    }

    /// Gives back what choice `index` holds, and takes over its figures.
    pub fn release(&mut self, index: usize, scheduler: &mut Scheduler) {
        let id = self.choices[index].sequence.take();
        if let Some(sequence) = id.and_then(|id| scheduler.finish(id)) {
            self.metrics.num_preemptions += sequence.num_preemptions();
            if index == 0 {
                self.metrics.num_cached_tokens = sequence.num_cached_tokens();
            }
        }
    }

    pub fn is_finished(&self) -> bool {
        self.choices.iter().all(|choice| choice.finished)
    }

    /// To the caller. A sink that panics has gone, like one that answers `Break`.
    pub fn send(&mut self, event: Event) -> ControlFlow<()> {
        catch_unwind(AssertUnwindSafe(|| (self.sink)(event))).unwrap_or(ControlFlow::Break(()))
    }

    pub fn snapshot(&self, scheduler: &Scheduler) -> RequestSnapshot {
        let ids = || self.choices.iter().filter_map(|choice| choice.sequence);
        let sequence = ids().next().and_then(|id| scheduler.get(id));
        RequestSnapshot {
            id: self.request.id,
            queue_time: self.first_step.map(|first_step| first_step.duration_since(self.submitted)),
            num_cached_tokens: sequence.map_or(0, Sequence::num_cached_tokens),
            num_computed_tokens: sequence.map_or(0, Sequence::num_computed_tokens),
            blocks: ranges(ids().flat_map(|id| scheduler.blocks_of(id)).collect()),
        }
    }

    pub fn metrics(&mut self, now: Instant) -> RequestMetrics {
        let since = |from: Option<Instant>, to: Option<Instant>| Some(to?.duration_since(from?));
        let submitted = Some(self.submitted);
        self.metrics.queue_time = since(submitted, self.first_step.or(Some(now))).unwrap_or_default();
        self.metrics.time_to_first_token = since(submitted, self.first_token);
        self.metrics.prefill_time = since(self.first_step, self.first_token.or(Some(now)));
        self.metrics.decode_time = since(self.first_token, self.last_token).unwrap_or_default();
        self.metrics.e2e_time = now.duration_since(self.submitted);
        self.metrics.clone()
    }
}
