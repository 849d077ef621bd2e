//! The dialect of Amazon Bedrock's runtime.

mod claude;
mod conversation;
mod converse;
mod count_tokens;
mod event_stream;
mod invoke;
mod llama;
mod reply;
mod usage;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::routing::post;
use serde_json::json;

use super::app::App;
use super::body;
use super::error::{Kind, Result, ServeError};

pub fn routes() -> Router<App> {
    Router::new()
        .route("/model/{id}/converse", post(converse::handle))
        .route("/model/{id}/converse-stream", post(converse::stream))
        .route("/model/{id}/count-tokens", post(count_tokens::handle))
        .route("/model/{id}/invoke", post(invoke::handle))
        .route("/model/{id}/invoke-with-response-stream", post(invoke::stream))
}

/// The model that the path names. Clients percent-encode its slashes and colons.
struct ModelId(String);

impl FromRequestParts<App> for ModelId {
    type Rejection = ServeError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self> {
        let id = Path::<String>::from_request_parts(parts, app).await;
        id.map(|Path(id)| Self(id))
            .map_err(|err| ServeError::invalid("modelId", format!("modelId: {}", err.body_text())))
    }
}

/// Errors as Amazon writes them: the type is in a header.
pub fn error_response(error: &ServeError) -> Response<Body> {
    let (status, exception) = exception(error.kind);
    let mut response = body::json_with(status, &json!({"message": error.message}));
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_static(exception));
    response
}

/// What Bedrock has no name for has the one that Amazon's services have in common.
fn exception(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::InvalidRequest | Kind::ContextLength => (StatusCode::BAD_REQUEST, "ValidationException"),
        Kind::Unauthorized => (StatusCode::FORBIDDEN, "AccessDeniedException"),
        Kind::BadSignature => (StatusCode::FORBIDDEN, "InvalidSignatureException"),
        Kind::ModelNotFound => (kind.status(), "ResourceNotFoundException"),
        Kind::NoSuchPath | Kind::MethodNotAllowed => (kind.status(), "UnknownOperationException"),
        Kind::Timeout => (kind.status(), "RequestTimeoutException"),
        Kind::BodyTooLarge => (kind.status(), "ValidationException"),
        Kind::RateLimited | Kind::Overloaded => (kind.status(), "ThrottlingException"),
        Kind::QuotaExhausted => (StatusCode::BAD_REQUEST, "ServiceQuotaExceededException"),
        Kind::Unavailable => (kind.status(), "ServiceUnavailableException"),
        Kind::Internal => (kind.status(), "InternalServerException"),
    }
}
