//! One answer, streamed to stdout, and what it cost.

use std::io::Write;
use std::time::{Duration, Instant};

use ferrule_engine::metrics::RequestMetrics;
use ferrule_engine::output::{Delta, FinishReason};
use ferrule_engine::{EngineHandle, Event, GenerateRequest, TokenId};

use crate::failure::Result;
use crate::interrupt::Interrupt;
use crate::units::three_digits;

/// How long Ctrl-C may go unnoticed.
pub const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Default)]
pub struct Answer {
    pub text: String,
    /// Empty if a server made it: it sends text.
    pub token_ids: Vec<TokenId>,
    /// None: it was interrupted.
    pub finish_reason: Option<FinishReason>,
    pub metrics: RequestMetrics,
}

/// An engine in this process, or one behind a server.
pub trait Respond {
    /// Answers the request, gives its text to `show` as it comes, and stops it when Ctrl-C is pressed.
    fn respond(&self, request: GenerateRequest, show: &mut dyn FnMut(&str) -> Result) -> Result<Answer>;
}

impl Respond for EngineHandle {
    fn respond(&self, request: GenerateRequest, show: &mut dyn FnMut(&str) -> Result) -> Result<Answer> {
        answer(self, request, show)
    }
}

/// Runs the request, gives its text to `show` as it comes, and stops it when Ctrl-C is pressed.
fn answer(engine: &EngineHandle, request: GenerateRequest, mut show: impl FnMut(&str) -> Result) -> Result<Answer> {
    let interrupt = Interrupt::watch();
    let start = Instant::now();
    let mut stream = engine.stream(request)?;
    let mut answer = Answer::default();
    answer.metrics.num_prompt_tokens = stream.prompt_token_ids().len();
    while !interrupt.is_pending() {
        match stream.next_timeout(POLL) {
            Err(()) => {}
            Ok(Some(Event::Delta(delta))) => {
                show(&delta.text)?;
                answer.add(delta, start.elapsed());
            }
            Ok(Some(Event::Done(metrics))) => answer.metrics = metrics,
            Ok(Some(Event::Error(err))) => return Err(err.into()),
            Ok(Some(_)) => {}
            Ok(None) => break,
        }
    }
    Ok(answer)
}

/// Text on stdout at once.
pub fn to_stdout(text: &str) -> Result {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

impl Answer {
    /// The figures kept here stand in for the engine's own if the answer is interrupted.
    fn add(&mut self, delta: Delta, elapsed: Duration) {
        self.text.push_str(&delta.text);
        self.token_ids.extend(delta.token_ids);
        self.finish_reason = delta.finish_reason.or(self.finish_reason);
        let metrics = &mut self.metrics;
        metrics.num_generated_tokens = self.token_ids.len();
        let first = *metrics.time_to_first_token.get_or_insert(elapsed);
        metrics.decode_time = elapsed - first;
        metrics.e2e_time = elapsed;
    }

    /// The line of figures for people.
    pub fn figures(&self) -> String {
        let metrics = &self.metrics;
        let ttft = metrics.time_to_first_token.map_or("-".into(), |ttft| format!("{:.0} ms", ttft.as_secs_f64() * 1e3));
        let rate = |rate: Option<f64>| rate.map_or(String::new(), |rate| format!(", {} tokens/s", three_digits(rate)));
        let cached = match metrics.num_cached_tokens {
            0 => String::new(),
            cached => format!(" ({cached} cached)"),
        };
        format!(
            "TTFT {ttft} | prompt {} tokens{cached}{} | generation {} tokens{}",
            metrics.num_prompt_tokens,
            rate(metrics.prefill_tokens_per_s()),
            metrics.num_generated_tokens,
            rate(metrics.decode_tokens_per_s()),
        )
    }
}
