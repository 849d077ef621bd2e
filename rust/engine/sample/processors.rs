//! What a request's parameters do to logits before a token is chosen: bias, minimum length, penalties.
//!
//! All of it touches few tokens, so edits are recorded and undone: a row can be used again for another
//! choice and for log-probabilities, and is never copied.

use super::SampleContext;
use crate::ids::TokenId;

/// Edits of one row, newest last.
#[derive(Debug, Default)]
pub struct Edits(Vec<(TokenId, f32)>);

impl Edits {
    fn set(&mut self, logits: &mut [f32], id: TokenId, value: f32) {
        self.0.push((id, std::mem::replace(&mut logits[id as usize], value)));
    }

    /// The row as the model gave it.
    pub fn undo(&mut self, logits: &mut [f32]) {
        for (id, value) in self.0.drain(..).rev() {
            logits[id as usize] = value;
        }
    }
}

/// How often tokens were seen; reused from row to row.
#[derive(Debug, Default)]
pub struct Counts {
    /// (vocab_size,) Occurrences in the output.
    output: Vec<u32>,
    /// (vocab_size,)
    seen: Vec<bool>,
    /// The tokens that are not zero above, in order of first sight.
    ids: Vec<TokenId>,
}

impl Counts {
    fn see(&mut self, id: TokenId) {
        if !std::mem::replace(&mut self.seen[id as usize], true) {
            self.ids.push(id);
        }
    }

    fn fill(&mut self, vocab_size: usize, context: &SampleContext<'_>) {
        self.output.resize(vocab_size, 0);
        self.seen.resize(vocab_size, false);
        for &id in context.output {
            self.see(id);
            self.output[id as usize] += 1;
        }
        if context.params.repetition_penalty != 1.0 {
            context.prompt.iter().for_each(|&id| self.see(id));
        }
    }

    fn clear(&mut self) {
        for id in self.ids.drain(..) {
            self.output[id as usize] = 0;
            self.seen[id as usize] = false;
        }
    }
}

/// Applies bias, minimum length and penalties, in vLLM's order.
pub fn process(logits: &mut [f32], context: &SampleContext<'_>, edits: &mut Edits, counts: &mut Counts) {
    for &(id, bias) in &context.params.logit_bias {
        edits.set(logits, id, logits[id as usize] + bias);
    }
    if context.output.len() < context.params.min_tokens {
        for &id in context.eos.iter().chain(&context.params.stop_token_ids) {
            // A tokenizer may name tokens beyond a model's vocabulary.
            if (id as usize) < logits.len() {
                edits.set(logits, id, f32::NEG_INFINITY);
            }
        }
    }
    penalize(logits, context, edits, counts);
}

fn penalize(logits: &mut [f32], context: &SampleContext<'_>, edits: &mut Edits, counts: &mut Counts) {
    let params = context.params;
    if params.repetition_penalty == 1.0 && params.presence_penalty == 0.0 && params.frequency_penalty == 0.0 {
        return;
    }
    counts.fill(logits.len(), context);
    for &id in &counts.ids {
        let logit = logits[id as usize];
        let repeated = match logit > 0.0 {
            true => logit / params.repetition_penalty,
            false => logit * params.repetition_penalty,
        };
        let count = counts.output[id as usize];
        let presence = if count > 0 { params.presence_penalty } else { 0.0 };
        edits.set(logits, id, repeated - params.frequency_penalty * count as f32 - presence);
    }
    counts.clear();
}
