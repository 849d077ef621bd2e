//! What the server is doing right now, for the page: a stream of reports.

mod recent;
mod report;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, header};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;

pub use self::recent::Recent;
use super::app::App;
use super::auth::Caller;
use super::body::{EVENT_STREAM, write_json};
use super::visit::Visit;

/// Between two reports.
const PERIOD: Duration = Duration::from_millis(500);

pub fn routes() -> Router<App> {
    Router::new().route("/live", get(live))
}

/// Server-sent events: a report at once, and one every [`PERIOD`], until the client leaves or the server stops.
async fn live(State(app): State<App>, Extension(visit): Extension<Arc<Visit>>) -> Response<Body> {
    let reports = stream::unfold((app, visit.caller.clone(), Duration::ZERO), async |(app, caller, wait)| {
        let frame = tokio::select! {
            frame = frame(&app, &caller, wait) => frame,
            () = app.drain.stopping() => return None,
        };
        Some((Ok::<_, Infallible>(frame), (app, caller, PERIOD)))
    });
    let mut response = Response::new(Body::from_stream(reports));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

async fn frame(app: &App, caller: &Caller, wait: Duration) -> Vec<u8> {
    tokio::time::sleep(wait).await;
    let mut out = b"data: ".to_vec();
    write_json(&mut out, &report::report(app, caller).await);
    out.extend_from_slice(b"\n\n");
    out
}
