//! `/api/tags`, `/api/ps` and `/api/show`: what models there are.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use ferrule_store::Store;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Named, blocking, find};
use crate::facts::Facts;
use crate::serve::app::App;
use crate::serve::auth::{hex, sha256};
use crate::serve::body::{self, Json};
use crate::serve::error::Result;
use crate::serve::models::{KeepAlive, Resident, Served, Source};
use crate::serve::rfc3339::rfc3339;
use crate::units;

/// What every model can do.
const CAPABILITIES: [&str; 1] = ["completion"];

/// What Ollama says of a model's files. Unknown is empty: a list of models does not fail because of one of them.
#[derive(Debug, Default, Serialize)]
struct Details {
    parent_model: &'static str,
    format: &'static str,
    family: &'static str,
    families: Vec<&'static str>,
    parameter_size: String,
    quantization_level: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_length: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    embedding_length: Option<usize>,
}

/// A model as its files are. Reading them takes a while.
struct Card {
    served: Served,
    facts: Option<Facts>,
    /// Bytes of files.
    size: u64,
    digest: String,
    license: Option<String>,
}

impl Card {
    fn read(served: Served, store: &Store) -> Self {
        let facts = match &served.source {
            Source::Null(_) => None,
            Source::Files(path) => Facts::open(path).ok(),
        };
        let stored = served.stored.as_ref().and_then(|name| store.show(name).ok());
        let weight_bytes = facts.as_ref().map_or(0, Facts::weight_bytes);
        let (size, content) = match &stored {
            Some(model) => (model.bytes(), model.files.iter().map(|file| file.sha256.as_str()).collect()),
            // Files outside the store have no checksums; this tells them apart as long as the server runs.
            None => (weight_bytes, format!("{} {weight_bytes} {}", served.name, served.created)),
        };
        Self { digest: hex(&sha256(&content)), size, facts, license: stored.and_then(|model| model.license), served }
    }

    fn details(&self) -> Details {
        let Some(facts) = &self.facts else { return Details::default() };
        let is_gguf = matches!(&self.served.source, Source::Files(path) if path.is_file());
        Details {
            parent_model: "",
            format: if is_gguf { "gguf" } else { "safetensors" },
            family: facts.config.family,
            families: vec![facts.config.family],
            parameter_size: units::count(facts.num_parameters).replace(' ', ""),
            quantization_level: facts.quantization(),
            context_length: Some(facts.config.max_position),
            embedding_length: Some(facts.config.hidden_size),
        }
    }

    fn modified_at(&self) -> String {
        rfc3339(UNIX_EPOCH + Duration::from_secs(self.served.created))
    }

    /// Under GGUF's names.
    fn model_info(&self) -> Map<String, Value> {
        let Some(facts) = &self.facts else { return Map::new() };
        let config = &facts.config;
        let general = [("architecture", json!(config.family)), ("parameter_count", json!(facts.num_parameters))];
        let own = [
            ("attention.head_count", config.num_heads),
            ("attention.head_count_kv", config.num_kv_heads),
            ("attention.key_length", config.head_dim),
            ("block_count", config.num_layers()),
            ("context_length", config.max_position),
            ("embedding_length", config.hidden_size),
            ("feed_forward_length", config.intermediate_size),
            ("vocab_size", config.vocab_size),
        ];
        let general = general.into_iter().map(|(key, value)| (format!("general.{key}"), value));
        let own = own.into_iter().map(|(key, value)| (format!("{}.{key}", config.family), value.into()));
        general.chain(own).collect()
    }
}

async fn card(app: &App, served: Served) -> Result<Card> {
    let store = app.registry.catalog().store().clone();
    blocking(move || Card::read(served, &store)).await
}

pub async fn tags(State(app): State<App>) -> Result<Response<Body>> {
    let mut models = Vec::new();
    for served in app.registry.catalog().list() {
        let card = card(&app, served).await?;
        models.push(json!({
            "name": card.served.name,
            "model": card.served.name,
            "modified_at": card.modified_at(),
            "size": card.size,
            "digest": card.digest,
            "details": card.details(),
            "capabilities": CAPABILITIES,
        }));
    }
    Ok(body::json(&json!({ "models": models })))
}

pub async fn ps(State(app): State<App>) -> Result<Response<Body>> {
    let mut models = Vec::new();
    for resident in app.registry.residents() {
        let model = &resident.model;
        let card = card(&app, model.served.clone()).await?;
        models.push(json!({
            "name": model.served.name,
            "model": model.served.name,
            "size": model.bytes,
            "digest": card.digest,
            "details": card.details(),
            "expires_at": expires_at(&resident),
            // Bytes on a GPU.
            "size_vram": 0,
            "context_length": model.engine.model().max_model_len,
        }));
    }
    Ok(body::json(&json!({ "models": models })))
}

/// A model that stays expires as late as Ollama's clients can count.
fn expires_at(resident: &Resident) -> String {
    const FOREVER: Duration = Duration::from_nanos(i64::MAX as u64);
    let left = match (resident.expires, resident.keep_alive) {
        (Some(at), _) => at.saturating_duration_since(Instant::now()),
        // In use.
        (None, KeepAlive::For(time)) => time.min(FOREVER),
        (None, KeepAlive::Forever) => FOREVER,
    };
    rfc3339(SystemTime::now() + left)
}

pub async fn show(State(app): State<App>, Json(request): Json<Named>) -> Result<Response<Body>> {
    let card = card(&app, find(&app, request.name())?).await?;
    let mut shown = json!({
        "modelfile": format!("FROM {}\n", card.served.name),
        "parameters": "",
        "details": card.details(),
        "model_info": card.model_info(),
        "capabilities": CAPABILITIES,
        "modified_at": card.modified_at(),
    });
    if let Some(license) = card.license {
        shown["license"] = license.into();
    }
    Ok(body::json(&shown))
}
