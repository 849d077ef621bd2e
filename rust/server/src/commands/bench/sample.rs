//! One measurement of one batch, and what several amount to.

use std::time::Duration;

use crate::failure::{Failure, Result};

/// One measurement of one batch.
#[derive(Debug)]
pub struct Sample {
    pub prefill_tokens_per_s: f64,
    pub decode_tokens_per_s: f64,
    pub total_tokens_per_s: f64,
    /// Median over the requests.
    pub ttft_ms: f64,
}

impl Sample {
    /// `arrivals`: request and time of each token, each request's in order of time.
    pub fn new(arrivals: &[(u32, Duration)], batch: u32, prompt_len: u32) -> Result<Self> {
        let mut firsts = vec![None; batch as usize];
        for &(request, at) in arrivals {
            firsts[request as usize].get_or_insert(at);
        }
        let firsts: Option<Vec<Duration>> = firsts.into_iter().collect();
        let firsts = firsts.ok_or_else(|| Failure::internal("a request ended without a token"))?;
        let all_started = firsts.iter().copied().max().unwrap_or_default();
        let end = arrivals.iter().map(|&(_, at)| at).max().unwrap_or_default();
        let decoded = arrivals.iter().filter(|&&(_, at)| at > all_started).count();
        let prompt_tokens = f64::from(batch) * f64::from(prompt_len);
        Ok(Self {
            prefill_tokens_per_s: rate(prompt_tokens, all_started),
            decode_tokens_per_s: rate(decoded as f64, end - all_started),
            total_tokens_per_s: rate(prompt_tokens + arrivals.len() as f64, end),
            ttft_ms: median(firsts.iter().map(|first| first.as_secs_f64() * 1e3)),
        })
    }
}

/// 0 where there was nothing to measure: one token has no generation speed.
fn rate(count: f64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count / time.as_secs_f64() }
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_follow_from_arrivals() {
        let ms = Duration::from_millis;
        let arrivals = [(0, ms(100)), (0, ms(150)), (1, ms(200)), (0, ms(300)), (1, ms(400))];
        let sample = Sample::new(&arrivals, 2, 10).unwrap();
        assert!((sample.prefill_tokens_per_s - 100.0).abs() < 1e-9);
        assert!((sample.decode_tokens_per_s - 10.0).abs() < 1e-9);
        assert!((sample.total_tokens_per_s - 62.5).abs() < 1e-9);
        assert!((sample.ttft_ms - 150.0).abs() < 1e-9);
        assert!(Sample::new(&arrivals[..2], 2, 10).is_err());
    }
}
