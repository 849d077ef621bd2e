//! What a device needs to choose tokens as [`super::sample`] does.

use std::collections::BTreeMap;

use super::SampleContext;
use crate::ids::TokenId;

/// Choices from rows of a step's logits, in the order of the rows.
#[derive(Debug, Default, PartialEq)]
pub struct SamplePlan {
    pub choices: Vec<Choice>,
    /// Of the rows that have some, in order.
    pub edits: Vec<RowEdits>,
    /// Of the rows that have one, in order.
    pub masks: Vec<RowMask>,
}

/// The only tokens that may follow, such as what a grammar allows.
#[derive(Debug, Clone, PartialEq)]
pub struct RowMask {
    pub row: usize,
    /// (ceil(vocab_size / 32),): bit i % 32 of word i / 32 allows token i.
    pub allowed: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    pub row: usize,
    pub temperature: f32,
    pub top_k: usize,
    pub top_p: f32,
    pub min_p: f32,
    pub seed: u64,
    /// Of the token that is chosen.
    pub position: usize,
}

/// What happens to a row before tokens are chosen from it.
#[derive(Debug, Clone, PartialEq)]
pub struct RowEdits {
    pub row: usize,
    pub repetition: f32,
    pub frequency: f32,
    pub presence: f32,
    /// Each token once.
    pub edits: Vec<Edit>,
}

/// Bias first, then the ban, then penalties if the token was seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edit {
    pub token: TokenId,
    pub bias: f32,
    /// In the output.
    pub count: u32,
    pub is_banned: bool,
    pub is_seen: bool,
}

impl SamplePlan {
    /// Adds a choice from `row`, of `vocab_size` logits. False: no device makes it.
    pub fn push(&mut self, row: usize, vocab_size: usize, context: &SampleContext<'_>) -> bool {
        let params = context.params;
        let mut biased: Vec<TokenId> = params.logit_bias.iter().map(|&(id, _)| id).collect();
        biased.sort_unstable();
        let is_repeated = biased.windows(2).any(|pair| pair[0] == pair[1]);
        if params.logprobs.is_some() || params.typical_p < 1.0 || is_repeated {
            return false;
        }
        // Choices from one row have the same tokens before them, and the same parameters.
        if self.choices.last().is_none_or(|last| last.row != row) {
            self.edits.extend(row_edits(row, vocab_size, context));
        }
        self.choices.push(Choice {
            row,
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            seed: context.seed,
            position: context.prompt.len() + context.output.len(),
        });
        true
    }
}

fn row_edits(row: usize, vocab_size: usize, context: &SampleContext<'_>) -> Option<RowEdits> {
    let params = context.params;
    // Adding -0 changes nothing.
    let untouched = |token| Edit { token, bias: -0.0, count: 0, is_banned: false, is_seen: false };
    let mut edits = BTreeMap::new();
    for &(id, bias) in &params.logit_bias {
        edits.entry(id).or_insert_with(|| untouched(id)).bias = bias;
    }
    if context.output.len() < params.min_tokens {
        for &id in context.eos.iter().chain(&params.stop_token_ids).filter(|&&id| (id as usize) < vocab_size) {
            edits.entry(id).or_insert_with(|| untouched(id)).is_banned = true;
        }
    }
    let (repetition, frequency, presence) =
        (params.repetition_penalty, params.frequency_penalty, params.presence_penalty);
    if repetition != 1.0 || frequency != 0.0 || presence != 0.0 {
        for &id in context.output {
            let edit = edits.entry(id).or_insert_with(|| untouched(id));
            edit.count += 1;
            edit.is_seen = true;
        }
        if repetition != 1.0 {
            for &id in context.prompt {
                edits.entry(id).or_insert_with(|| untouched(id)).is_seen = true;
            }
        }
    }
    let edits: Vec<Edit> = edits.into_values().collect();
    (!edits.is_empty()).then_some(RowEdits { row, repetition, frequency, presence, edits })
}
