//! One sequence of tokens on its way.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::ids::{RequestId, SequenceId, TokenId};
use crate::request::{Request, SamplingParams, Task};

/// Who comes first: higher priority, then earlier arrival, then lower choice. No two sequences are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    priority: Reverse<i32>,
    arrival: u64,
    index: usize,
}

/// One choice of a request: its tokens, and how far they are computed.
///
/// There are no phases: `num_computed_tokens` chases `num_tokens`. A new prompt, a prefix hit, a decode
/// step and the return after a preemption differ only in the distance.
#[derive(Debug)]
pub struct Sequence {
    id: SequenceId,
    request_id: RequestId,
    index: usize,
    /// Prompt, then output.
    tokens: Vec<TokenId>,
    /// The token after them was chosen, but only the device knows it: as which of its last choices.
    chosen: Option<usize>,
    num_prompt_tokens: usize,
    /// Leading tokens whose keys and values are in the cache.
    num_computed_tokens: usize,
    /// Leading prompt tokens whose logits were delivered for `prompt_logprobs`.
    num_scored_tokens: usize,
    num_cached_tokens: usize,
    num_preemptions: usize,
    /// Running slots that this sequence takes: its own, and those of choices not forked yet.
    num_slots: usize,
    priority: i32,
    arrival: u64,
    max_len: usize,
    cache_salt: Option<String>,
    task: Task,
    params: Arc<SamplingParams>,
}

impl Sequence {
    /// Choice 0 of `request`.
    pub fn new(id: SequenceId, request: &Request) -> Self {
        assert!(!request.prompt.is_empty(), "a request has at least one token");
        Self {
            id,
            request_id: request.id,
            index: 0,
            tokens: request.prompt.clone(),
            chosen: None,
            num_prompt_tokens: request.prompt.len(),
            num_computed_tokens: 0,
            num_scored_tokens: 0,
            num_cached_tokens: 0,
            num_preemptions: 0,
            num_slots: request.params.n.max(1),
            priority: request.priority,
            arrival: 0,
            max_len: request.max_len,
            cache_salt: request.cache_salt.clone(),
            task: request.task,
            params: request.params.clone(),
        }
    }

    pub fn id(&self) -> SequenceId {
        self.id
    }

    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// The choice, 0 to n-1.
    pub fn index(&self) -> usize {
        self.index
    }

    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    pub fn prompt(&self) -> &[TokenId] {
        &self.tokens[..self.num_prompt_tokens]
    }

    pub fn output(&self) -> &[TokenId] {
        &self.tokens[self.num_prompt_tokens..]
    }

    pub fn num_computed_tokens(&self) -> usize {
        self.num_computed_tokens
    }

    /// Prompt tokens that the prefix cache had when this sequence was first admitted.
    pub fn num_cached_tokens(&self) -> usize {
        self.num_cached_tokens
    }

    pub fn num_preemptions(&self) -> usize {
        self.num_preemptions
    }

    pub fn params(&self) -> &Arc<SamplingParams> {
        &self.params
    }

    pub fn max_len(&self) -> usize {
        self.max_len
    }

    /// Tokens to compute, the one that only the device knows among them: unless it is the last one, which is not computed.
    pub(crate) fn computable_len(&self) -> usize {
        self.tokens.len() + usize::from(self.chosen.is_some() && self.tokens.len() + 1 < self.max_len)
    }

    pub(crate) fn num_remaining_tokens(&self) -> usize {
        self.computable_len() - self.num_computed_tokens
    }

    pub(crate) fn chosen(&self) -> Option<usize> {
        self.chosen
    }

    pub(crate) fn rank(&self) -> Rank {
        Rank { priority: Reverse(self.priority), arrival: self.arrival, index: self.index }
    }

    pub(crate) fn num_slots(&self) -> usize {
        self.num_slots
    }

    /// No salt and an empty one are the same tenant.
    pub(crate) fn salt(&self) -> &str {
        self.cache_salt.as_deref().unwrap_or_default()
    }

    pub(crate) fn task(&self) -> Task {
        self.task
    }

    /// Leading prompt tokens that are computed without rows, because nobody asked or they were delivered
    /// before a preemption. None: this prompt needs no rows (any more).
    pub(crate) fn num_scored_tokens(&self) -> Option<usize> {
        let wants_scores = self.task == Task::Generate && self.params.prompt_logprobs.is_some();
        (wants_scores && self.num_scored_tokens < self.num_prompt_tokens).then_some(self.num_scored_tokens)
    }

    /// Most tokens to take from the prefix cache: one must be left to compute, and logits are not cached.
    pub(crate) fn max_hit_len(&self) -> usize {
        self.num_scored_tokens().unwrap_or(usize::MAX).min(self.tokens.len() - 1)
    }

    pub(crate) fn set_arrival(&mut self, arrival: u64) {
        self.arrival = arrival;
    }

    /// Starts to run, with tokens that the prefix cache had.
    pub(crate) fn admit(&mut self, num_hit_tokens: usize) {
        self.num_computed_tokens = num_hit_tokens;
        if self.num_preemptions == 0 {
            self.num_cached_tokens = num_hit_tokens.min(self.num_prompt_tokens);
        }
    }

    /// Loses its blocks, keeps its tokens. What was computed may be kept elsewhere.
    pub(crate) fn preempt(&mut self, is_kept: bool) {
        if !is_kept {
            self.num_computed_tokens = 0;
        }
        self.num_preemptions += 1;
    }

    /// What was kept of it is lost.
    pub(crate) fn start_again(&mut self) {
        self.num_computed_tokens = 0;
    }

    pub(crate) fn advance_to(&mut self, num_computed_tokens: usize, scored: bool) {
        self.num_computed_tokens = num_computed_tokens;
        if scored {
            self.num_scored_tokens = num_computed_tokens;
        }
    }

    /// The device has chosen the next token.
    pub(crate) fn expect(&mut self, choice: usize) {
        self.chosen = Some(choice);
    }

    /// The next token, which may have been expected.
    pub(crate) fn push(&mut self, token: TokenId) {
        self.chosen = None;
        self.tokens.push(token);
    }

    /// Another choice of the same request; takes over one of the slots that were kept for it.
    pub(crate) fn fork(&mut self, id: SequenceId, index: usize) -> Self {
        assert!(self.num_slots > 1, "request {}: choice {index} is more than was asked for", self.request_id);
        self.num_slots -= 1;
        Self {
            id,
            index,
            num_slots: 1,
            tokens: self.tokens.clone(),
            cache_salt: self.cache_salt.clone(),
            params: self.params.clone(),
            ..*self
        }
    }
}
