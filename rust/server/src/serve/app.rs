//! What all requests share.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::access_log::AccessLog;
use super::auth::Auth;
use super::drain::Drain;
use super::live::Recent;
use super::metrics::Metrics;
use super::models::Registry;
use super::pace::Pace;
use super::trace::TraceFile;

/// What no request may exceed.
#[derive(Debug, Clone)]
pub struct Limits {
    pub max_body_bytes: usize,
    /// For a request to arrive whole.
    pub read_timeout: Duration,
    /// For a client to take something of what is sent to it.
    pub write_timeout: Duration,
    pub max_connections: usize,
}

pub struct Shared {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    pub auth: Arc<Auth>,
    pub drain: Arc<Drain>,
    pub recent: Recent,
    /// A pull takes one of these.
    pub pulls: Arc<Semaphore>,
    pub limits: Limits,
    /// Of streams.
    pub pace: Pace,
    pub log: AccessLog,
    /// None: nobody traces.
    pub trace_file: Option<TraceFile>,
}

#[derive(Clone)]
pub struct App(Arc<Shared>);

impl App {
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
