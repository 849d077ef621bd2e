//! How many HTTP requests there were, and how long they took.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::histogram::Histogram;
use super::text::Exposition;

const SECONDS: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];

/// (route, method, status): routes, not paths, so that callers cannot make up new ones.
type Key = (String, String, u16);

#[derive(Debug)]
pub struct HttpMetrics {
    requests: Mutex<BTreeMap<Key, u64>>,
    seconds: Histogram,
}

impl Default for HttpMetrics {
    fn default() -> Self {
        Self { requests: Mutex::default(), seconds: Histogram::new(SECONDS) }
    }
}

impl HttpMetrics {
    /// A request whose response has ended.
    pub fn observe(&self, route: &str, method: &str, status: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route.into(), method.into(), status)).or_default() += 1;
        drop(requests);
        self.seconds.observe(took.as_secs_f64());
    }

    pub(super) fn render(&self, out: &mut Exposition) {
        out.head("http_requests_total", "counter", "HTTP requests by route, method and status.");
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for ((route, method, status), count) in requests.iter() {
            let status = status.to_string();
            let labels = [("handler", route.as_str()), ("method", method), ("status", &status)];
            out.sample("http_requests_total", &labels, count);
        }
        out.head("http_request_duration_seconds", "histogram", "Time from a request's head to its response's end.");
        out.histogram("http_request_duration_seconds", &[], &self.seconds);
    }
}
