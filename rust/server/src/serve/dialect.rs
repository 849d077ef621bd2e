//! Which dialect a request speaks. It decides the shape of errors, and what paths that two dialects have answer.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response};
use axum::routing::get;

use super::app::App;
use super::error::{Result, ServeError};
use super::{anthropic, bedrock, ollama, openai};

const MODELS: &str = "/v1/models";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Also of paths that are in no dialect.
    OpenAi,
    Anthropic,
    Ollama,
    Bedrock,
}

impl Dialect {
    pub fn of(path: &str, headers: &HeaderMap) -> Self {
        let is_under = |root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if path.starts_with("/api/") {
            Self::Ollama
        } else if path.starts_with("/model/") {
            Self::Bedrock
        } else if is_under("/v1/messages") || headers.contains_key("anthropic-version") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }

    pub fn error_response(self, error: &ServeError, request_id: &str) -> Response<Body> {
        match self {
            Self::OpenAi => openai::error_response(error),
            Self::Anthropic => anthropic::error_response(error, request_id),
            Self::Ollama => ollama::error_response(error),
            Self::Bedrock => bedrock::error_response(error),
        }
    }

    /// What the dialect's clients call `x-request-id`.
    pub fn request_id_header(self) -> Option<&'static str> {
        match self {
            Self::OpenAi | Self::Ollama => None,
            Self::Anthropic => Some("request-id"),
            Self::Bedrock => Some("x-amzn-requestid"),
        }
    }
}

/// What is in two dialects under the same path.
pub fn shared_routes() -> Router<App> {
    Router::new().route(MODELS, get(list_models)).route("/v1/models/{*id}", get(show_model))
}

async fn list_models(State(app): State<App>, headers: HeaderMap) -> Response<Body> {
    match Dialect::of(MODELS, &headers) {
        Dialect::Anthropic => anthropic::list_models(&app),
        _ => openai::list_models(&app),
    }
}

async fn show_model(State(app): State<App>, headers: HeaderMap, Path(id): Path<String>) -> Result<Response<Body>> {
    match Dialect::of(MODELS, &headers) {
        Dialect::Anthropic => anthropic::show_model(&app, &id),
        _ => openai::show_model(&app, &id),
    }
}
