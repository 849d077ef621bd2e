//! Ollama's dialect.

use axum::Router;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::routing::get;
use serde_json::json;

use super::app::App;
use super::body;
use super::error::{Kind, ServeError};

pub fn routes() -> Router<App> {
    Router::new().route("/api/version", get(async || body::json(&json!({"version": env!("CARGO_PKG_VERSION")}))))
}

/// Errors as Ollama writes them.
pub fn error_response(error: &ServeError) -> Response<Body> {
    body::json_with(status(error.kind), &json!({"error": error.message}))
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        // Ollama's own queue, when it is full.
        Kind::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        kind => kind.status(),
    }
}
