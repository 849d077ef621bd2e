//! Events of one request to its whole answer.

use ferrule_engine::output::{Choice, Delta, TokenLogprob};
use ferrule_engine::{Error, Event, FinishReason, GenerateOutput, TokenId};

pub struct Collector {
    prompt_token_ids: Vec<TokenId>,
    prompt_logprobs: Vec<TokenLogprob>,
    choices: Vec<Choice>,
    embedding: Option<Vec<f32>>,
}

impl Collector {
    pub fn new(prompt_token_ids: Vec<TokenId>) -> Self {
        Self { prompt_token_ids, prompt_logprobs: Vec::new(), choices: Vec::new(), embedding: None }
    }

    /// The answer, or why there is none, with the request's last event.
    pub fn push(&mut self, event: Event) -> Option<Result<GenerateOutput, Error>> {
        match event {
            Event::PromptLogprobs(logprobs) => self.prompt_logprobs = logprobs,
            Event::Embedding(row) => self.embedding = Some(row),
            Event::Delta(delta) => self.extend(delta),
            Event::Error(err) => return Some(Err(err)),
            Event::Done(metrics) => {
                return Some(Ok(GenerateOutput {
                    prompt_token_ids: std::mem::take(&mut self.prompt_token_ids),
                    prompt_logprobs: std::mem::take(&mut self.prompt_logprobs),
                    outputs: std::mem::take(&mut self.choices),
                    embedding: self.embedding.take(),
                    metrics,
                }));
            }
        }
        None
    }

    fn extend(&mut self, delta: Delta) {
        while self.choices.len() <= delta.index {
            self.choices.push(empty_choice(self.choices.len()));
        }
        let choice = &mut self.choices[delta.index];
        choice.text.push_str(&delta.text);
        choice.token_ids.extend(delta.token_ids);
        choice.logprobs.extend(delta.logprobs);
        choice.finish_reason = delta.finish_reason.unwrap_or(choice.finish_reason);
        choice.stop_reason = delta.stop_reason.or(choice.stop_reason.take());
    }
}

fn empty_choice(index: usize) -> Choice {
    Choice {
        index,
        text: String::new(),
        token_ids: Vec::new(),
        logprobs: Vec::new(),
        finish_reason: FinishReason::Length,
        stop_reason: None,
    }
}
