//! The latest requests to engines.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::serve::auth::Caller;
use crate::serve::record::Record;
use crate::serve::visit::Visit;

/// Running ones may be pushed out too: it is a window, not an account.
const MAX_ENTRIES: usize = 128;

/// A visit that asked an engine for something.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Counted from the server's start.
    pub number: u64,
    pub id: String,
    pub caller: Caller,
    pub started: Instant,
    pub record: Arc<Record>,
}

#[derive(Debug, Default)]
pub struct Recent(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    entries: VecDeque<Entry>,
    num_seen: u64,
}

impl Recent {
    /// Once per visit, however many requests it makes: those come one right after the other.
    pub fn add(&self, visit: &Visit) {
        let mut state = self.lock();
        let State { entries, num_seen } = &mut *state;
        if entries.iter().rev().take(16).any(|entry| Arc::ptr_eq(&entry.record, &visit.record)) {
            return;
        }
        if entries.len() == MAX_ENTRIES {
            entries.pop_front();
        }
        *num_seen += 1;
        entries.push_back(Entry {
            number: *num_seen,
            id: visit.id.clone(),
            caller: visit.caller.clone(),
            started: visit.started,
            record: visit.record.clone(),
        });
    }

    pub fn list(&self) -> Vec<Entry> {
        self.lock().entries.iter().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change under the lock is complete at once.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
