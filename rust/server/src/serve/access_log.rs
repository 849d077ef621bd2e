//! One line per HTTP request, for people or for machines.

use std::io::Write;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::visit::Visit;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    Off,
    Human,
    Json,
}

impl FromStr for AccessLog {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "human" => Ok(Self::Human),
            "json" => Ok(Self::Json),
            _ => Err(format!("'{text}' is not one of: human, json, off")),
        }
    }
}

/// A visit that has ended.
pub struct Line<'a> {
    pub visit: &'a Visit,
    pub status: u16,
    pub took: Duration,
}

impl AccessLog {
    /// To stderr, in one write, so that lines of different threads never mix.
    pub fn write(self, line: &Line) {
        let text = match self {
            Self::Off => return,
            Self::Human => line.human(),
            Self::Json => line.json(),
        };
        // A log that nobody takes is no reason to stop serving.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

impl Line<'_> {
    fn human(&self) -> String {
        let Self { visit, status, took } = self;
        let cost = visit.record.cost();
        let mut line = format!("{} {} {} {status} {:.1} ms", clock(), visit.method, visit.path, millis(*took));
        if let Some(model) = cost.model.as_ref().filter(|_| cost.prompt_tokens > 0) {
            line += &format!(
                " | {model}: prompt {} ({} cached), generated {}",
                cost.prompt_tokens, cost.cached_tokens, cost.generated_tokens
            );
            if let Some(ttft) = cost.time_to_first_token {
                line += &format!(", TTFT {:.1} ms", millis(ttft));
            }
            line += &format!(", {}", cost.end.unwrap_or("abort"));
        }
        if let Some(key) = &visit.caller.key {
            line += &format!(" | {}", key.name);
        }
        line + &format!(" | {}\n", visit.id)
    }

    fn json(&self) -> String {
        let Self { visit, status, took } = self;
        let cost = visit.record.cost();
        let line = json!({
            "time": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            "request_id": visit.id,
            "key": visit.caller.key.as_ref().map(|key| &key.name),
            "method": visit.method,
            "path": visit.path,
            "status": status,
            "ms": millis(*took),
            "model": cost.model,
            "prompt_tokens": cost.prompt_tokens,
            "cached_tokens": cost.cached_tokens,
            "generated_tokens": cost.generated_tokens,
            "ttft_ms": cost.time_to_first_token.map(millis),
            "queue_ms": cost.queue_time.map(millis),
            "end": cost.end,
        });
        format!("{line}\n")
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// The time of day in UTC.
fn clock() -> String {
    let secs = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()) % 86_400;
    format!("{:02}:{:02}:{:02}Z", secs / 3600, secs / 60 % 60, secs % 60)
}
