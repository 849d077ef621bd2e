//! A batch size's figures, beside what the machine can give.

use ferrule_engine::profile::{Phase, PhaseTotals};
use serde_json::{Value, json};

use super::limits::{Ceilings, Workload};
use super::profile;
use super::sample::{Sample, median};
use crate::units::{bytes, three_digits};

pub struct BatchResult<'a> {
    workload: Workload<'a>,
    samples: Vec<Sample>,
    /// Bytes; what the limits were measured with is not in them.
    peak_rss: Option<u64>,
    /// Over all samples; empty if nothing was timed.
    profile: Vec<(Phase, PhaseTotals)>,
}

pub const HEADER: [&str; 11] = [
    "BATCH",
    "PROMPT TOK/S",
    "GOPS",
    "% PEAK",
    "GENERATION TOK/S",
    "GB/S",
    "% READ",
    "GOPS",
    "% PEAK",
    "TTFT MS",
    "PEAK RSS",
];

impl<'a> BatchResult<'a> {
    /// Of at least one sample.
    pub fn new(
        workload: Workload<'a>,
        samples: Vec<Sample>,
        peak_rss: Option<u64>,
        profile: Vec<(Phase, PhaseTotals)>,
    ) -> Self {
        Self { workload, samples, peak_rss, profile }
    }

    fn median(&self, of: fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of))
    }

    fn spread(&self, of: fn(&Sample) -> f64) -> Value {
        let values = || self.samples.iter().map(of);
        json!([values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max)])
    }

    fn prefill_tokens_per_s(&self) -> f64 {
        self.median(|sample| sample.prefill_tokens_per_s)
    }

    fn decode_tokens_per_s(&self) -> f64 {
        self.median(|sample| sample.decode_tokens_per_s)
    }

    /// None without a model.
    fn prefill_ops_per_s(&self) -> Option<f64> {
        Some(self.prefill_tokens_per_s() * self.workload.prefill_ops_per_token()?)
    }

    fn decode_ops_per_s(&self) -> Option<f64> {
        Some(self.decode_tokens_per_s() * self.workload.decode_ops_per_token()?)
    }

    /// Each step of the whole batch reads the weights once, and every sequence's keys and values.
    fn decode_bytes_per_s(&self) -> Option<f64> {
        let steps_per_s = self.decode_tokens_per_s() / self.workload.batch as f64;
        Some(steps_per_s * self.workload.decode_bytes_per_step()?)
    }

    pub fn json(&self, ceilings: &Ceilings) -> Value {
        let share_of_peak = |ops: Option<f64>| Some(ops? / ceilings.ops?);
        json!({
            "batch": self.workload.batch,
            "prompt_len": self.workload.prompt_len,
            "gen_len": self.workload.gen_len,
            "prefill_tokens_per_s": self.prefill_tokens_per_s(),
            "prefill_ops_per_s": self.prefill_ops_per_s(),
            "prefill_share_of_peak": share_of_peak(self.prefill_ops_per_s()),
            "decode_tokens_per_s": self.decode_tokens_per_s(),
            "decode_bytes_per_s": self.decode_bytes_per_s(),
            "decode_share_of_read": self.decode_bytes_per_s().map(|bytes| bytes / ceilings.read),
            "decode_ops_per_s": self.decode_ops_per_s(),
            "decode_share_of_peak": share_of_peak(self.decode_ops_per_s()),
            "total_tokens_per_s": self.median(|sample| sample.total_tokens_per_s),
            "ttft_ms": self.median(|sample| sample.ttft_ms),
            "peak_rss_bytes": self.peak_rss,
            "profile": self.profile.iter().map(profile::json).collect::<Vec<_>>(),
            "spread": {
                "prefill_tokens_per_s": self.spread(|sample| sample.prefill_tokens_per_s),
                "decode_tokens_per_s": self.spread(|sample| sample.decode_tokens_per_s),
                "total_tokens_per_s": self.spread(|sample| sample.total_tokens_per_s),
                "ttft_ms": self.spread(|sample| sample.ttft_ms),
            },
        })
    }

    pub fn profile_rows(&self, ceilings: &Ceilings) -> Vec<Vec<String>> {
        let rows = self.profile.iter().flat_map(|phase| profile::rows(phase, ceilings));
        rows.map(|row| [vec![self.workload.batch.to_string()], row].concat()).collect()
    }

    pub fn row(&self, ceilings: &Ceilings) -> Vec<String> {
        let giga = |rate: Option<f64>| rate.map_or(String::new(), |rate| three_digits(rate / 1e9));
        let percent = |rate: Option<f64>, limit: Option<f64>| match (rate, limit) {
            (Some(rate), Some(limit)) => format!("{:.0}", 100.0 * rate / limit),
            _ => String::new(),
        };
        vec![
            self.workload.batch.to_string(),
            three_digits(self.prefill_tokens_per_s()),
            giga(self.prefill_ops_per_s()),
            percent(self.prefill_ops_per_s(), ceilings.ops),
            three_digits(self.decode_tokens_per_s()),
            giga(self.decode_bytes_per_s()),
            percent(self.decode_bytes_per_s(), Some(ceilings.read)),
            giga(self.decode_ops_per_s()),
            percent(self.decode_ops_per_s(), ceilings.ops),
            three_digits(self.median(|sample| sample.ttft_ms)),
            self.peak_rss.map_or("?".into(), bytes),
        ]
    }
}
