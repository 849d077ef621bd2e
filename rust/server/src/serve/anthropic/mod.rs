//! Anthropic's dialect: the Messages API.

mod messages;
mod models;
mod reply;
mod request;
mod sse;
mod stream;

use axum::Router;
use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};

pub use self::models::{list as list_models, show as show_model};
pub use self::reply::Reply;
pub use self::request::ask;
pub use self::stream::{MessageFramer, StreamEvent, Wire};
use super::app::App;
use super::body;
use super::error::{Kind, ServeError};

pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/messages", post(messages::handle))
        .route("/v1/messages/count_tokens", post(messages::count_tokens))
}

/// Errors as Anthropic writes them.
pub fn error_response(error: &ServeError, request_id: &str) -> Response<Body> {
    body::json_with(status(error.kind), &error_json(error, request_id))
}

fn error_json(error: &ServeError, request_id: &str) -> Value {
    json!({
        "type": "error",
        "error": {"type": name(error.kind), "message": error.message},
        "request_id": request_id,
    })
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::InvalidRequest | Kind::ContextLength | Kind::MethodNotAllowed => "invalid_request_error",
        Kind::Unauthorized | Kind::BadSignature => "authentication_error",
        Kind::ModelNotFound | Kind::NoSuchPath => "not_found_error",
        Kind::Timeout => "timeout_error",
        Kind::BodyTooLarge => "request_too_large",
        Kind::RateLimited | Kind::QuotaExhausted => "rate_limit_error",
        Kind::Overloaded => "overloaded_error",
        Kind::Unavailable | Kind::Internal => "api_error",
    }
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        // Anthropic's own status; its clients wait and try again.
        Kind::Overloaded => StatusCode::from_u16(529).expect("it has three digits"),
        kind => kind.status(),
    }
}
