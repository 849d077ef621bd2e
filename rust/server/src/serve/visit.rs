//! One HTTP request, from its head to the last byte of its response.

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use std::sync::atomic::{AtomicU64, Ordering};

use super::access_log::Line;
use super::app::App;
use super::auth::Caller;
use super::dialect::Dialect;
use super::record::Record;
use super::trace::Trace;

pub const REQUEST_ID: &str = "x-request-id";
const MAX_ID_LEN: usize = 128;

/// What is known about a request; handlers find it in the request's extensions.
pub struct Visit {
    /// The caller's `x-request-id`, or one of ours.
    pub id: String,
    pub started: Instant,
    pub caller: Caller,
    pub record: Arc<Record>,
    pub trace: Option<Arc<Trace>>,
    pub method: String,
    pub path: String,
    pub dialect: Dialect,
    /// The route that matched, such as `/v1/models/{id}`.
    route: OnceLock<String>,
}

impl Visit {
    pub fn begin<B>(request: &Request<B>, caller: Caller, trace: Option<Arc<Trace>>) -> Arc<Self> {
        let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let is_sound = |id: &&str| (1..=MAX_ID_LEN).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        Arc::new(Self {
            id: given.filter(is_sound).map_or_else(|| format!("req-{}", random_hex()), str::to_owned),
            started: Instant::now(),
            caller,
            record: Arc::default(),
            trace,
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
            dialect: Dialect::of(request.uri().path(), request.headers()),
            route: OnceLock::new(),
        })
    }

    pub fn set_route(&self, route: &str) {
        self.route.get_or_init(|| route.into());
    }

    /// Gives the response its id, and logs and counts it when its last byte is gone.
    pub fn finish(self: Arc<Self>, app: &App, mut response: Response<Body>) -> Response<Body> {
        let id = HeaderValue::from_str(&self.id).expect("an id is printable ASCII");
        if let Some(name) = self.dialect.request_id_header() {
            response.headers_mut().insert(name, id.clone());
        }
        response.headers_mut().insert(REQUEST_ID, id);
        let ending = Ending { app: app.clone(), status: response.status().as_u16(), visit: self };
        response.map(|inner| Body::new(Watched { inner, _ending: ending }))
    }
}

/// 128 bits that nobody guesses: the standard library's hasher is keyed at random.
pub fn random_hex() -> String {
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:016x}{:016x}", KEYS[0].hash_one(count), KEYS[1].hash_one(count))
}

/// Dropped when the response is complete, or when its client has left.
struct Ending {
    app: App,
    status: u16,
    visit: Arc<Visit>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let Self { app, status, visit } = self;
        let took = visit.started.elapsed();
        let route = visit.route.get().map_or("none", String::as_str);
        app.metrics.http.observe(route, &visit.method, *status, took);
        app.log.write(&Line { visit, status: *status, took });
        if let Some(trace) = &visit.trace {
            trace.visit(visit, route, *status);
        }
    }
}

struct Watched {
    inner: Body,
    _ending: Ending,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
