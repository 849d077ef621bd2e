//! OpenAI's dialect, with vLLM's additions under vLLM's names.

mod chat;
mod chunk;
mod completions;
mod content;
mod embeddings;
mod logprobs;
mod models;
mod prompts;
mod request;
mod responses;
mod sampling;
mod usage;

use axum::Router;
use axum::body::Body;
use axum::http::Response;
use axum::routing::post;
use serde_json::json;

pub use self::chat::{Conversation, Message, conversation};
pub use self::logprobs::{token_logprobs, token_text};
pub use self::models::{list as list_models, show as show_model};
use super::app::App;
use super::body;
use super::error::{Kind, ServeError};

pub fn routes() -> Router<App> {
    Router::new()
        .route("/v1/chat/completions", post(chat::handle))
        .route("/v1/completions", post(completions::handle))
        .route("/v1/embeddings", post(embeddings::handle))
        .route("/v1/responses", post(responses::handle))
}

/// Errors as OpenAI writes them.
pub fn error_response(error: &ServeError) -> Response<Body> {
    body::json_with(error.kind.status(), &error_json(error))
}

fn error_json(error: &ServeError) -> serde_json::Value {
    let (kind, code) = names(error.kind);
    json!({"error": {"message": error.message, "type": kind, "param": error.param, "code": code}})
}

/// `type` and `code`.
fn names(kind: Kind) -> (&'static str, Option<&'static str>) {
    match kind {
        Kind::InvalidRequest | Kind::MethodNotAllowed | Kind::NoSuchPath => ("invalid_request_error", None),
        Kind::ContextLength => ("invalid_request_error", Some("context_length_exceeded")),
        Kind::Unauthorized | Kind::BadSignature => ("invalid_request_error", Some("invalid_api_key")),
        Kind::ModelNotFound => ("invalid_request_error", Some("model_not_found")),
        Kind::Timeout => ("invalid_request_error", Some("request_timeout")),
        Kind::BodyTooLarge => ("invalid_request_error", Some("request_too_large")),
        Kind::RateLimited => ("rate_limit_error", Some("rate_limit_exceeded")),
        Kind::QuotaExhausted => ("insufficient_quota", Some("insufficient_quota")),
        Kind::Overloaded => ("rate_limit_error", Some("queue_full")),
        Kind::Unavailable => ("service_unavailable_error", Some("service_unavailable")),
        Kind::Internal => ("server_error", None),
    }
}
