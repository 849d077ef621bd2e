//! One sequence of tokens on its way.

use std::sync::Arc;

use crate::ids::{RequestId, SequenceId, TokenId};
use crate::request::{Request, SamplingParams, Task};

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
}
