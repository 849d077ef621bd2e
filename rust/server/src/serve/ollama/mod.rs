//! Ollama's dialect.

mod chat;
mod embed;
mod generate;
mod models;
mod options;
mod reply;
mod request;
mod store;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Response, StatusCode};
use axum::routing::{any, delete, get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::app::App;
use super::body;
use super::error::{Kind, Result, ServeError};
use super::models::Served;

/// Content type of a stream: one JSON object a line.
const ND_JSON: &str = "application/x-ndjson";

/// The tag of names without a tag.
const LATEST: &str = ":latest";

/// What Ollama has and Ferrule does not.
const UNBUILT: [&str; 3] = ["/api/create", "/api/push", "/api/blobs/{digest}"];

pub fn routes() -> Router<App> {
    let routes = Router::new()
        .route("/api/chat", post(chat::handle))
        .route("/api/copy", post(store::copy))
        .route("/api/delete", delete(store::delete))
        .route("/api/embed", post(embed::handle))
        .route("/api/embeddings", post(embed::handle_legacy))
        .route("/api/generate", post(generate::handle))
        .route("/api/ps", get(models::ps))
        .route("/api/pull", post(store::pull))
        .route("/api/show", post(models::show))
        .route("/api/tags", get(models::tags))
        .route("/api/version", get(async || body::json(&json!({"version": env!("CARGO_PKG_VERSION")}))));
    UNBUILT.iter().fold(routes, |routes, path| routes.route(path, any(unbuilt)))
}

async fn unbuilt(request: Request) -> ServeError {
    ServeError::new(Kind::InvalidRequest, format!("{} is not supported by this server", request.uri().path()))
}

/// A request about a model. `name` is what the field was called in older clients.
#[derive(Debug, Deserialize)]
struct Named {
    model: Option<String>,
    name: Option<String>,
}

impl Named {
    fn name(&self) -> Option<&str> {
        self.model.as_deref().filter(|model| !model.is_empty()).or(self.name.as_deref())
    }
}

fn required(name: Option<&str>) -> Result<&str> {
    let missing = || ServeError::invalid("model", "model is required");
    name.filter(|name| !name.is_empty()).ok_or_else(missing)
}

/// The model that a request names. Ollama's clients add the tag `latest` to names without a tag.
fn find(app: &App, name: Option<&str>) -> Result<Served> {
    let (catalog, name) = (app.registry.catalog(), required(name)?);
    catalog.find(Some(name)).or_else(|error| match name.strip_suffix(LATEST) {
        Some(untagged) => catalog.find(Some(untagged)).map_err(|_| error),
        None => Err(error),
    })
}

/// Work on files, away from the threads that serve connections.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| ServeError::new(Kind::Internal, "reading the model's files panicked"))
}

/// Errors as Ollama writes them.
pub fn error_response(error: &ServeError) -> Response<Body> {
    body::json_with(status(error.kind), &error_json(&error.message))
}

fn error_json(message: &str) -> Value {
    json!({ "error": message })
}

fn status(kind: Kind) -> StatusCode {
    match kind {
        // Ollama's own queue, when it is full.
        Kind::Overloaded => StatusCode::SERVICE_UNAVAILABLE,
        kind => kind.status(),
    }
}
