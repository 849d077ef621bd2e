//! `ferrule run`

use std::io::{IsTerminal, Read};

use clap::Args;
use ferrule_engine::{ChatMessage, EngineConfig, EngineHandle, GenerateRequest, Prompt, SamplingParams};
use serde_json::{Value, json};

use super::chat::Chat;
use crate::answer::{Answer, Respond, to_stdout};
use crate::client::Client;
use crate::engine_args::EngineArgs;
use crate::failure::{Failure, Result};
use crate::print;
use crate::remote::Remote;

#[derive(Debug, Args)]
pub struct Run {
    /// A .gguf file, a Hugging Face folder, or a name such as smollm2
    model: String,
    /// What to answer; read from stdin if that is no terminal, otherwise a chat begins
    prompt: Option<String>,
    /// No chat template: continue the prompt as it is
    #[arg(long)]
    raw: bool,
    /// System message of the conversation
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Let a running server answer, such as http://127.0.0.1:8000, instead of loading the model here
    #[arg(long, value_name = "URL")]
    host: Option<String>,
    /// The server's API key
    #[arg(long, value_name = "KEY", env = "FERRULE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Print the line of figures even if stderr is no terminal
    #[arg(long)]
    stats: bool,
    /// Print one JSON object instead of streaming text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_tokens: usize,
    /// Randomness; 0 always takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.7, allow_negative_numbers = true)]
    temperature: f32,
    /// Keep the smallest set of tokens with this much probability
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f32,
    /// Keep the K most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Keep tokens at least this likely relative to the most likely one
    #[arg(long, value_name = "P", default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f32,
    /// Above 1: tokens that have occurred become less likely
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    repetition_penalty: f32,
    /// The same seed gives the same answer [default: drawn, and reported with --json]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl SamplingArgs {
    pub fn params(&self) -> SamplingParams {
        SamplingParams {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: self.stop.clone(),
            ..SamplingParams::default()
        }
    }
}

impl Run {
    pub fn execute(self) -> Result {
        let prompt = self.prompt()?;
        if let Some(host) = &self.host {
            let remote = Remote::new(Client::new(host, self.api_key.clone()), self.model.clone());
            let raw = self.raw;
            return self.answer(&remote, prompt, raw);
        }
        let config = EngineConfig { max_num_seqs: 1, ..self.engine.config() };
        config.validate()?;
        // The vocabulary is not known yet; none of these parameters needs it.
        self.sampling.params().validate(usize::MAX)?;
        let engine = EngineHandle::load(&super::locate(&self.model)?, config)?;
        let has_template = engine.model().chat_template.is_some();
        if !has_template && self.system.is_some() {
            return Err(Failure::usage(format!("{} has no chat template, so --system has no place in it", self.model)));
        }
        if !has_template && !self.raw {
            print::note("This is a base model: it continues your text instead of answering it.");
        }
        let raw = self.raw || !has_template;
        self.answer(&engine, prompt, raw)
    }

    fn answer(self, model: &dyn Respond, prompt: Option<String>, raw: bool) -> Result {
        match prompt {
            Some(prompt) => self.answer_once(model, prompt, raw),
            None => Chat::new(model, self.sampling.params(), self.system, raw).run(),
        }
    }

    /// The prompt of a single answer; None: a person is there to chat with.
    fn prompt(&self) -> Result<Option<String>> {
        let prompt = match (&self.prompt, std::io::stdin().is_terminal()) {
            (Some(prompt), _) => prompt.clone(),
            (None, true) if self.json => return Err(Failure::usage("--json needs a PROMPT")),
            (None, true) => return Ok(None),
            (None, false) => read_stdin()?,
        };
        match prompt.trim().is_empty() {
            true => Err(Failure::usage("the prompt is empty: give a PROMPT, or text on stdin")),
            false => Ok(Some(prompt)),
        }
    }

    fn answer_once(&self, model: &dyn Respond, prompt: String, raw: bool) -> Result {
        let system = self.system.iter().map(|text| ChatMessage::new("system", text));
        let prompt = match raw {
            true => Prompt::Text(prompt),
            false => Prompt::Chat(system.chain([ChatMessage::new("user", prompt)]).collect()),
        };
        let request = GenerateRequest::new(prompt, self.sampling.params());
        let mut show = |text: &str| if self.json { Ok(()) } else { to_stdout(text) };
        let answer = model.respond(request, &mut show)?;
        match self.json {
            true => print::json(&to_json(&self.model, &answer))?,
            false if answer.text.ends_with('\n') => {}
            false => to_stdout("\n")?,
        }
        if self.stats || (!self.json && std::io::stderr().is_terminal()) {
            print::note(&answer.figures());
        }
        match answer.finish_reason {
            Some(_) => Ok(()),
            None => Err(Failure::interrupted()),
        }
    }
}

fn read_stdin() -> Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    String::from_utf8(bytes).map_err(|err| Failure::usage(format!("stdin is not UTF-8 text: {err}")))
}

fn to_json(model: &str, answer: &Answer) -> Value {
    let metrics = &answer.metrics;
    json!({
        "model": model,
        "text": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason.map(|reason| reason.as_str()),
        "usage": {
            "prompt_tokens": metrics.num_prompt_tokens,
            "cached_tokens": metrics.num_cached_tokens,
            "completion_tokens": metrics.num_generated_tokens,
            "total_tokens": metrics.num_prompt_tokens + metrics.num_generated_tokens,
        },
        "ttft_ms": metrics.time_to_first_token.map(|ttft| ttft.as_secs_f64() * 1e3),
        "prefill_tokens_per_s": metrics.prefill_tokens_per_s(),
        "decode_tokens_per_s": metrics.decode_tokens_per_s(),
        "seed": metrics.seed,
    })
}
