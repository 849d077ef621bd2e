//! `options`: how tokens are chosen.

use ferrule_engine::SamplingParams;
use serde::Deserialize;

/// Options that set up Ollama's runner (`num_ctx`, `num_gpu`, `num_thread` and the like) are not here: one engine serves
/// all requests, and any prompt that fits the model is taken.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Options {
    num_predict: Option<i64>,
    temperature: Option<f32>,
    top_k: Option<i64>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    seed: Option<i64>,
    stop: Option<Vec<String>>,
    /// Penalties see the whole sequence, not its last `repeat_last_n` tokens; but 0 turns them off.
    repeat_last_n: Option<i64>,
    repeat_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
}

impl Options {
    /// The engine's parameters, with Ollama's defaults. `logprobs`: of generated tokens.
    pub fn params(self, logprobs: Option<usize>) -> SamplingParams {
        let penalty = |value: Option<f32>, off: f32| match self.repeat_last_n {
            Some(0) => off,
            _ => value.unwrap_or(off),
        };
        SamplingParams {
            // Negative: as many as there is room for.
            max_tokens: usize::try_from(self.num_predict.unwrap_or(-1)).unwrap_or(usize::MAX),
            temperature: self.temperature.unwrap_or(0.8),
            top_k: usize::try_from(self.top_k.unwrap_or(40)).unwrap_or(0),
            top_p: self.top_p.unwrap_or(0.9),
            min_p: self.min_p.unwrap_or(0.0),
            typical_p: self.typical_p.unwrap_or(1.0),
            repetition_penalty: penalty(self.repeat_penalty, 1.0),
            presence_penalty: penalty(self.presence_penalty, 0.0),
            frequency_penalty: penalty(self.frequency_penalty, 0.0),
            // Negative: drawn anew.
            seed: self.seed.and_then(|seed| u64::try_from(seed).ok()),
            stop: self.stop.unwrap_or_default(),
            logprobs,
            ..SamplingParams::default()
        }
    }
}
