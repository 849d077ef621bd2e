//! What can go wrong with a request, said once for all dialects.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;

pub type Result<T, E = ServeError> = std::result::Result<T, E>;

/// The kinds that some dialect tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request as written can never be served.
    InvalidRequest,
    /// The prompt leaves no room for an answer.
    ContextLength,
    /// No key, or an unknown one.
    Unauthorized,
    /// The request is signed, but not with the secret of its key, or not now.
    BadSignature,
    ModelNotFound,
    NoSuchPath,
    MethodNotAllowed,
    /// The request did not arrive in time.
    Timeout,
    BodyTooLarge,
    /// A limit of the caller's key, which time alone lifts.
    RateLimited,
    /// The key's budget is spent.
    QuotaExhausted,
    /// The server's own queues are full.
    Overloaded,
    /// The server is shutting down, or a model cannot be loaded now.
    Unavailable,
    Internal,
}

impl Kind {
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest | Self::ContextLength => StatusCode::BAD_REQUEST,
            Self::Unauthorized | Self::BadSignature => StatusCode::UNAUTHORIZED,
            Self::ModelNotFound | Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RateLimited | Self::QuotaExhausted | Self::Overloaded => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// An error on its way to a dialect, which gives it its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeError {
    pub kind: Kind,
    pub message: String,
    /// The field of the request that is at fault, such as `messages[0].content`.
    pub param: Option<String>,
    pub retry_after: Option<Duration>,
}

impl ServeError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, retry_after: None }
    }

    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(Kind::InvalidRequest, message) }
    }

    pub fn model_not_found(name: &str, why: &str) -> Self {
        Self { param: Some("model".into()), ..Self::new(Kind::ModelNotFound, format!("the model '{name}' {why}")) }
    }

    pub fn retry_after(self, time: Duration) -> Self {
        Self { retry_after: Some(time), ..self }
    }

    /// The `Retry-After` header's value: whole seconds, at least one.
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.retry_after.map(|time| (time.as_secs_f64().ceil() as u64).max(1))
    }
}

impl From<ferrule_engine::Error> for ServeError {
    fn from(error: ferrule_engine::Error) -> Self {
        use ferrule_engine::Error as E;
        let message = error.to_string();
        match error {
            E::InvalidRequest(_) => Self::new(Kind::InvalidRequest, message),
            E::ModelNotFound(_) => Self::new(Kind::ModelNotFound, message),
            E::Overloaded { .. } => Self::new(Kind::Overloaded, message).retry_after(Duration::from_secs(1)),
            E::OutOfMemory(_) => Self::new(Kind::Unavailable, message).retry_after(Duration::from_secs(10)),
            E::Cancelled(_) => Self::new(Kind::Unavailable, message),
            E::InvalidConfig(_)
            | E::Unsupported { .. }
            | E::Corrupt { .. }
            | E::Device(_)
            | E::Io { .. }
            | E::Internal(_) => Self::new(Kind::Internal, message),
        }
    }
}

/// An empty response that carries the error; [`super::front_door`] gives it the dialect's shape.
impl IntoResponse for ServeError {
    fn into_response(self) -> Response<Body> {
        let mut response = self.kind.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
