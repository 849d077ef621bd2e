//! Health and metrics: for those who look after the server.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::routing::get;
use ferrule_engine::EngineHandle;
use serde_json::json;

use super::app::App;
use super::body::{self, json_with};
use super::drain::Phase;

/// An engine with work to do must take a step within this.
const STEP_BOUND: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub fn routes() -> Router<App> {
    Router::new()
        .route("/health", get(deep))
        .route("/health/live", get(async || body::json(&json!({"status": "ok"}))))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(async || body::json(&json!({"version": env!("CARGO_PKG_VERSION")}))))
}

/// Whether requests should be sent here: not while a model is loaded, nor while the server shuts down.
async fn ready(State(app): State<App>) -> Response<Body> {
    match not_ready(&app) {
        None => body::json(&json!({"status": "ok"})),
        Some(why) => json_with(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": why})),
    }
}

/// Why no requests should be sent here now.
pub fn not_ready(app: &App) -> Option<&'static str> {
    match app.drain.phase() {
        Phase::Draining | Phase::Stopping => Some("draining"),
        Phase::Starting => Some("loading"),
        Phase::Running if app.registry.is_loading() => Some("loading"),
        Phase::Running => None,
    }
}

/// Ready, and every engine that has work takes steps.
async fn deep(State(app): State<App>) -> Response<Body> {
    if let Some(why) = not_ready(&app) {
        return json_with(StatusCode::SERVICE_UNAVAILABLE, &json!({"status": why}));
    }
    let residents = app.registry.residents();
    let mut models = Vec::new();
    for resident in &residents {
        let engine = &resident.model.engine;
        models.push((resident.model.served.name.as_str(), is_alive(engine).await));
    }
    let ok = models.iter().all(|(_, alive)| *alive);
    let models: serde_json::Map<_, _> =
        models.into_iter().map(|(name, alive)| (name.into(), if alive { "ok" } else { "stuck" }.into())).collect();
    let code = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json_with(code, &json!({"status": if ok { "ok" } else { "stuck" }, "models": models}))
}

/// Idle, or seen to step within the bound.
async fn is_alive(engine: &EngineHandle) -> bool {
    let first = engine.stats();
    let looks = STEP_BOUND.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        let stats = engine.stats();
        if stats.num_running + stats.num_waiting == 0 || stats.num_steps > first.num_steps {
            return true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    false
}

async fn metrics(State(app): State<App>) -> Response<Body> {
    let mut response = Response::new(Body::from(app.metrics.render(&app.registry)));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
