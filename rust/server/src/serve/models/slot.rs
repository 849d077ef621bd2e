//! One model in memory, and who uses it.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ferrule_engine::EngineHandle;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::catalog::Served;
use super::keep_alive::KeepAlive;
use super::registry::Shared;
use crate::serve::drain::InFlight;
use crate::serve::error::ServeError;
use crate::serve::metrics::ModelMetrics;

pub struct LoadedModel {
    pub served: Served,
    pub engine: EngineHandle,
    pub metrics: Arc<ModelMetrics>,
    /// Weights and KV cache.
    pub bytes: u64,
    pub load_time: Duration,
    /// Whose turn it is to tokenize a long text.
    pub long_texts: Arc<Semaphore>,
    /// Names everything that may change an answer.
    pub fingerprint: String,
}

impl LoadedModel {
    /// What everybody is told of a model in memory.
    pub fn describe(&self) -> Value {
        let (info, stats) = (self.engine.model(), self.engine.stats());
        json!({
            "name": self.served.name,
            "backend": info.backend,
            "max_model_len": info.max_model_len,
            "num_running": stats.num_running,
            "num_waiting": stats.num_waiting,
            "num_blocks": stats.num_blocks,
            "num_used_blocks": stats.num_used_blocks,
            "num_steps": stats.num_steps,
            "num_prompt_tokens": stats.num_prompt_tokens,
            "num_generated_tokens": stats.num_generated_tokens,
        })
    }
}

/// What became of loading; None while it goes on.
pub type Outcome = Option<Result<(), ServeError>>;

/// The state of a model that is in memory, on its way there, or on its way out.
pub enum Slot {
    Loading { reserved: u64, outcome: watch::Sender<Outcome> },
    Loaded(Loaded),
    Unloading { bytes: u64 },
}

pub struct Loaded {
    pub model: Arc<LoadedModel>,
    pub leases: usize,
    pub keep_alive: KeepAlive,
    pub last_used: Instant,
    /// Nobody has used it yet: until then it waits for those who had it loaded.
    pub first_use_by: Option<Instant>,
    /// Another model waits for its place: it takes no new requests.
    pub gives_way: bool,
}

/// How long a model that was just loaded waits for its first use.
const FIRST_USE: Duration = Duration::from_secs(5);

impl Loaded {
    pub fn new(model: LoadedModel, keep_alive: KeepAlive) -> Self {
        let now = Instant::now();
        let (model, first_use_by) = (Arc::new(model), Some(now + FIRST_USE));
        Self { model, leases: 0, keep_alive, last_used: now, first_use_by, gives_way: false }
    }

    pub fn lease(&mut self) {
        self.leases += 1;
        self.first_use_by = None;
    }

    /// When it is to be unloaded, if nobody asks for it before.
    pub fn expires(&self) -> Option<Instant> {
        match self.keep_alive {
            KeepAlive::For(time) if self.leases == 0 => self.last_used.checked_add(time).max(self.first_use_by),
            _ => None,
        }
    }

    /// Since when it may make room for others.
    pub fn idle_since(&self, now: Instant) -> Option<Instant> {
        self.used_before(now).filter(|_| self.leases == 0)
    }

    /// When somebody last finished using it. None: those who had it loaded are still to come.
    pub fn used_before(&self, now: Instant) -> Option<Instant> {
        let is_awaited = self.first_use_by.is_some_and(|by| now < by);
        (!is_awaited).then_some(self.last_used)
    }
}

impl Slot {
    /// A defect ended the engine: the next request loads the model again.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Loaded(loaded) if loaded.model.engine.is_broken())
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Self::Loading { reserved, .. } => *reserved,
            Self::Loaded(loaded) => loaded.model.bytes,
            Self::Unloading { bytes } => *bytes,
        }
    }
}

/// The right to use a model; while it lives, the model stays, and so does the server, if it drains.
#[derive(Clone)]
pub struct Lease(Arc<LeaseInner>);

struct LeaseInner {
    model: Arc<LoadedModel>,
    registry: Weak<Shared>,
    /// The request that it is for. None: it is for the server itself.
    in_flight: Option<InFlight>,
}

impl Lease {
    pub(super) fn new(model: Arc<LoadedModel>, registry: Weak<Shared>) -> Self {
        Self(Arc::new(LeaseInner { model, registry, in_flight: None }))
    }

    /// For a request, which is in flight as long as the lease lives.
    pub fn of_request(mut self, in_flight: InFlight) -> Self {
        Arc::get_mut(&mut self.0).expect("a new lease has no copies").in_flight = Some(in_flight);
        self
    }
}

impl std::ops::Deref for Lease {
    type Target = LoadedModel;

    fn deref(&self) -> &LoadedModel {
        &self.0.model
    }
}

impl Drop for LeaseInner {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.release(&self.model);
        }
    }
}
