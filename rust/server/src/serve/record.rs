//! What a visit cost, for the access log; one visit may have several requests to engines.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrule_engine::RequestId;

#[derive(Debug, Clone, Default)]
pub struct Cost {
    pub model: Option<String>,
    pub prompt_tokens: usize,
    pub cached_tokens: usize,
    pub generated_tokens: usize,
    /// From the visit's start to its first token.
    pub time_to_first_token: Option<Duration>,
    pub queue_time: Option<Duration>,
    /// From the visit's start to its latest token.
    pub last_token: Option<Duration>,
    /// How the last choice ended.
    pub end: Option<&'static str>,
    /// Requests to engines that have not ended.
    pub num_open: usize,
    /// From the visit's start to the end of the last request to an engine that ended.
    pub ended: Option<Duration>,
    /// As the engine knows them.
    pub engine_requests: Vec<RequestId>,
}

#[derive(Debug, Default)]
pub struct Record(Mutex<Cost>);

impl Record {
    pub fn update(&self) -> MutexGuard<'_, Cost> {
        // Every change under the lock is complete at once.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn cost(&self) -> Cost {
        self.update().clone()
    }
}
