//! What a key may use, as buckets that fill with time: pure, the clock comes from outside.

use std::time::{Duration, Instant};

use super::key_file::KeyLimits;
use crate::serve::error::{Kind, Result, ServeError};

/// What a key has used. Buckets hold a minute's worth and are full at first.
#[derive(Debug, Default)]
pub struct Quota {
    requests: Bucket,
    tokens: Bucket,
    /// Tokens of requests that have ended, in former servers too.
    used: u64,
    /// Tokens of requests that run.
    reserved: u64,
}

#[derive(Debug, Default)]
struct Bucket {
    /// What is missing to a full bucket, at `at`. More than all of it: a debt.
    missing: f64,
    at: Option<Instant>,
}

/// What is left of a key's limits; None where it has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    pub requests: Option<Left>,
    pub tokens: Option<Left>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Left {
    pub limit: u64,
    pub remaining: u64,
    /// Until the bucket is full.
    pub reset: Duration,
}

impl Bucket {
    fn refill(&mut self, per_minute: u64, now: Instant) {
        let passed = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        self.missing = (self.missing - passed * per_minute as f64 / 60.0).max(0.0);
        self.at = Some(now);
    }

    /// Without a limit nothing is missing.
    fn take(&mut self, limit: Option<u64>, amount: u64) {
        self.missing += limit.map_or(0.0, |_| amount as f64);
    }

    /// How long until `amount` is there; None: it is. More than a full bucket never is, so a full one will do, if it
    /// holds anything.
    fn wait(&self, per_minute: u64, amount: u64) -> Option<Duration> {
        let amount = amount.min(per_minute.max(1)) as f64;
        let short = self.missing + amount - per_minute as f64;
        // Rounding errors of refilling are no reason to wait.
        (short > 1e-6).then(|| seconds(short, per_minute))
    }

    fn left(&self, per_minute: u64) -> Left {
        let remaining = (per_minute as f64 - self.missing).max(0.0) as u64;
        Left { limit: per_minute, remaining, reset: seconds(self.missing, per_minute) }
    }
}

/// How long `amount` takes to fill. A limit of zero never does.
fn seconds(amount: f64, per_minute: u64) -> Duration {
    const NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
    Duration::try_from_secs_f64(amount * 60.0 / per_minute as f64).unwrap_or(NEVER).min(NEVER)
}

impl Quota {
    pub fn with_used(used: u64) -> Self {
        Self { used, ..Self::default() }
    }

    /// What requests that have ended used.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Takes one request and `tokens`, or nothing and says why and for how long.
    pub fn reserve(&mut self, limits: &KeyLimits, tokens: u64, now: Instant) -> Result<()> {
        if let Some(budget) = limits.token_budget.filter(|&budget| self.used + self.reserved >= budget) {
            let message = format!("the key's budget of {budget} tokens is spent");
            return Err(ServeError::new(Kind::QuotaExhausted, message));
        }
        self.refill(limits, now);
        let requests = limits.requests_per_minute.map(|limit| (limit, self.requests.wait(limit, 1), "requests"));
        let of_tokens = limits.tokens_per_minute.map(|limit| (limit, self.tokens.wait(limit, tokens), "tokens"));
        for (limit, wait, what) in [requests, of_tokens].into_iter().flatten() {
            if let Some(wait) = wait {
                let message = format!("the key's limit is {limit} {what} per minute; try again in {wait:.1?}");
                return Err(ServeError::new(Kind::RateLimited, message).retry_after(wait));
            }
        }
        self.requests.take(limits.requests_per_minute, 1);
        self.tokens.take(limits.tokens_per_minute, tokens);
        self.reserved += tokens;
        Ok(())
    }

    /// A request for which `reserved` tokens were taken has used `used`. None: it was not taken after all.
    pub fn settle(&mut self, limits: &KeyLimits, reserved: u64, used: Option<u64>, now: Instant) {
        self.refill(limits, now);
        if used.is_none() {
            self.requests.missing = (self.requests.missing - 1.0).max(0.0);
        }
        let used = used.unwrap_or(0);
        self.tokens.missing = (self.tokens.missing + used as f64 - reserved as f64).max(0.0);
        self.reserved -= reserved;
        self.used += used;
    }

    pub fn standing(&mut self, limits: &KeyLimits, now: Instant) -> Standing {
        self.refill(limits, now);
        Standing {
            requests: limits.requests_per_minute.map(|limit| self.requests.left(limit)),
            tokens: limits.tokens_per_minute.map(|limit| self.tokens.left(limit)),
        }
    }

    fn refill(&mut self, limits: &KeyLimits, now: Instant) {
        self.requests.refill(limits.requests_per_minute.unwrap_or(0), now);
        self.tokens.refill(limits.tokens_per_minute.unwrap_or(0), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: KeyLimits =
        KeyLimits { requests_per_minute: Some(2), tokens_per_minute: Some(600), token_budget: Some(2000) };

    fn at(secs: f64) -> Instant {
        static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
        *START + Duration::from_secs_f64(secs)
    }

    #[test]
    fn requests_come_back_with_time() {
        let mut quota = Quota::default();
        quota.reserve(&LIMITS, 1, at(0.0)).unwrap();
        quota.reserve(&LIMITS, 1, at(0.0)).unwrap();
        let refused = quota.reserve(&LIMITS, 1, at(0.0)).unwrap_err();
        assert_eq!((refused.kind, refused.retry_after_secs()), (Kind::RateLimited, Some(30)));
        assert!(quota.reserve(&LIMITS, 1, at(29.0)).is_err());
        quota.reserve(&LIMITS, 1, at(30.0)).unwrap();
    }

    #[test]
    fn tokens_are_reserved_and_settled() {
        let mut quota = Quota::default();
        quota.reserve(&LIMITS, 500, at(0.0)).unwrap();
        let refused = quota.reserve(&LIMITS, 200, at(0.0)).unwrap_err();
        assert_eq!(refused.retry_after_secs(), Some(10));
        quota.settle(&LIMITS, 500, Some(300), at(0.0));
        assert_eq!(quota.standing(&LIMITS, at(0.0)).tokens.unwrap().remaining, 300);
        quota.reserve(&LIMITS, 200, at(0.0)).unwrap();
    }

    #[test]
    fn what_was_not_taken_costs_nothing() {
        let mut quota = Quota::default();
        quota.reserve(&LIMITS, 600, at(0.0)).unwrap();
        quota.settle(&LIMITS, 600, None, at(0.0));
        let standing = quota.standing(&LIMITS, at(0.0));
        assert_eq!((standing.requests.unwrap().remaining, standing.tokens.unwrap().remaining), (2, 600));
    }

    #[test]
    fn more_than_a_minutes_worth_needs_a_full_bucket_and_leaves_a_debt() {
        let mut quota = Quota::default();
        quota.reserve(&LIMITS, 900, at(0.0)).unwrap();
        quota.settle(&LIMITS, 900, Some(900), at(0.0));
        assert_eq!(quota.reserve(&LIMITS, 1, at(0.0)).unwrap_err().retry_after_secs(), Some(31));
        quota.reserve(&LIMITS, 1, at(31.0)).unwrap();
    }

    #[test]
    fn a_limit_of_zero_lets_nothing_through() {
        let none = KeyLimits { requests_per_minute: Some(0), ..KeyLimits::default() };
        assert!(Quota::default().reserve(&none, 1, at(0.0)).is_err());
        let none = KeyLimits { tokens_per_minute: Some(0), ..KeyLimits::default() };
        assert!(Quota::default().reserve(&none, 1, at(0.0)).is_err());
    }

    #[test]
    fn a_budget_is_spent_for_good() {
        let mut quota = Quota::default();
        quota.reserve(&LIMITS, 100, at(0.0)).unwrap();
        quota.settle(&LIMITS, 100, Some(2000), at(0.0));
        let refused = quota.reserve(&LIMITS, 1, at(10_000.0)).unwrap_err();
        assert_eq!((refused.kind, refused.retry_after_secs()), (Kind::QuotaExhausted, None));
        let mut next = Quota::with_used(quota.used());
        assert_eq!(next.reserve(&LIMITS, 1, at(0.0)).unwrap_err().kind, Kind::QuotaExhausted);
    }

    #[test]
    fn a_budget_counts_what_runs_and_keeps_what_has_ended() {
        let mut quota = Quota::with_used(1500);
        quota.reserve(&LIMITS, 500, at(0.0)).unwrap();
        assert_eq!(quota.used(), 1500);
        assert_eq!(quota.reserve(&LIMITS, 1, at(0.0)).unwrap_err().kind, Kind::QuotaExhausted);
        quota.settle(&LIMITS, 500, Some(20), at(0.0));
        assert_eq!(quota.used(), 1520);
        quota.reserve(&LIMITS, 1, at(0.0)).unwrap();
    }

    #[test]
    fn no_limits_are_no_limits() {
        let (mut quota, none) = (Quota::default(), KeyLimits::default());
        for _ in 0..1000 {
            quota.reserve(&none, u64::from(u32::MAX), at(0.0)).unwrap();
        }
        assert_eq!(quota.standing(&none, at(0.0)), Standing { requests: None, tokens: None });
    }
}
