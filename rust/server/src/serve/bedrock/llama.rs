//! Bodies of Llama models: a prompt that is all of what the model sees, and a generation.

use ferrule_engine::metrics::RequestMetrics;
use ferrule_engine::{Event, FinishReason, GenerateOutput, Prompt, SamplingParams};
use serde::{Deserialize, Serialize};

use super::event_stream::{write_chunk, write_exception};
use super::usage::InvocationMetrics;
use crate::serve::ask::Ask;
use crate::serve::body::Framer;
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::{Fields, Unbuilt, is_empty, unbuilt};
use crate::serve::timing::Timing;

const UNBUILT: &[Unbuilt] = &[unbuilt("images", is_empty)];

/// Unless the request says, as Amazon has them.
const DEFAULT_MAX_GEN_LEN: usize = 512;
const DEFAULT_TEMPERATURE: f32 = 0.5;
const DEFAULT_TOP_P: f32 = 0.9;

#[derive(Debug, Deserialize)]
struct LlamaRequest {
    prompt: String,
    max_gen_len: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
}

#[derive(Debug, Serialize)]
pub struct Generation<'a> {
    generation: &'a str,
    /// In a stream, the first piece has it.
    prompt_token_count: Option<usize>,
    /// So far.
    generation_token_count: usize,
    stop_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<Timing>,
    #[serde(rename = "amazon-bedrock-invocationMetrics", skip_serializing_if = "Option::is_none")]
    metrics: Option<InvocationMetrics>,
}

pub fn ask(fields: &Fields) -> Result<Ask> {
    fields.refuse(UNBUILT)?;
    let LlamaRequest { prompt, max_gen_len, temperature, top_p } = fields.read()?;
    let params = SamplingParams {
        max_tokens: max_gen_len.unwrap_or(DEFAULT_MAX_GEN_LEN),
        temperature: temperature.unwrap_or(DEFAULT_TEMPERATURE),
        top_p: top_p.unwrap_or(DEFAULT_TOP_P),
        ..SamplingParams::default()
    };
    Ok(Ask { prompt: Prompt::Text(prompt), params, priority: 0, cache_salt: None })
}

pub fn whole(output: &GenerateOutput) -> Generation<'_> {
    let (choice, metrics) = (&output.outputs[0], &output.metrics);
    Generation {
        generation: &choice.text,
        prompt_token_count: Some(metrics.num_prompt_tokens),
        generation_token_count: metrics.num_generated_tokens,
        stop_reason: Some(choice.finish_reason.as_str()),
        timing: Some(metrics.into()),
        metrics: None,
    }
}

/// Writes pieces of a generation.
pub struct LlamaFramer {
    /// Until it is told.
    num_prompt_tokens: Option<usize>,
    num_generated: usize,
    end: Option<FinishReason>,
}

impl LlamaFramer {
    pub fn new(num_prompt_tokens: usize) -> Self {
        Self { num_prompt_tokens: Some(num_prompt_tokens), num_generated: 0, end: None }
    }

    fn piece<'a>(&mut self, text: &'a str) -> Generation<'a> {
        Generation {
            generation: text,
            prompt_token_count: self.num_prompt_tokens.take(),
            generation_token_count: self.num_generated,
            stop_reason: None,
            timing: None,
            metrics: None,
        }
    }
}

impl Framer for LlamaFramer {
    fn open(&mut self, _: &mut Vec<u8>) {}

    fn event(&mut self, _: usize, event: Event, out: &mut Vec<u8>) {
        let Event::Delta(delta) = event else { return };
        self.num_generated += delta.token_ids.len();
        self.end = delta.finish_reason;
        if !delta.text.is_empty() {
            write_chunk(out, &self.piece(&delta.text));
        }
    }

    fn done(&mut self, _: usize, metrics: &RequestMetrics, out: &mut Vec<u8>) {
        let reason = self.end.expect("an answer's last delta has its finish reason");
        let last = Generation {
            stop_reason: Some(reason.as_str()),
            timing: Some(metrics.into()),
            metrics: Some(metrics.into()),
            ..self.piece("")
        };
        write_chunk(out, &last);
    }

    fn close(&mut self, _: &mut Vec<u8>) {}

    fn error(&mut self, error: &ServeError, out: &mut Vec<u8>) {
        write_exception(out, error);
    }
}
