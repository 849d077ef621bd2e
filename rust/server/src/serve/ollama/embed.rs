//! `/api/embed`, and `/api/embeddings` for one text, as older clients have it.

use std::sync::Arc;
use std::time::Instant;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use ferrule_engine::Prompt;
use serde::{Deserialize, Serialize};

use super::reply::nanos;
use super::request::{Delivery, Loaded};
use crate::serve::app::App;
use crate::serve::ask;
use crate::serve::body;
use crate::serve::embed::{Embeddings, Vector, check_dimensions, embed};
use crate::serve::error::Result;
use crate::serve::fields::Fields;
use crate::serve::visit::Visit;

#[derive(Debug, Deserialize)]
struct Request {
    input: Input,
    truncate: Option<bool>,
    dimensions: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an array of strings")]
enum Input {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct LegacyRequest {
    prompt: Option<String>,
}

/// Durations are in nanoseconds.
#[derive(Debug, Serialize)]
struct Reply<'a> {
    model: &'a str,
    embeddings: Vec<Vector>,
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
}

#[derive(Debug, Serialize)]
struct LegacyReply {
    embedding: Vector,
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    fields: Fields,
) -> Result<Response<Body>> {
    let began = Instant::now();
    let (delivery, request): (Delivery, Request) = (fields.read()?, fields.read()?);
    let texts = match request.input {
        Input::One(text) if text.is_empty() => Vec::new(),
        Input::One(text) => vec![text],
        Input::Many(texts) => texts,
    };
    let loaded = delivery.load(&app, &visit).await?;
    let embeddings = of_texts(&app, &visit, &loaded, texts, request.truncate.unwrap_or(true)).await?;
    check_dimensions(&embeddings.vectors, request.dimensions)?;
    Ok(body::json(&Reply {
        model: delivery.model.as_deref().unwrap_or_default(),
        embeddings: embeddings.vectors,
        total_duration: nanos(began.elapsed()),
        load_duration: nanos(loaded.time),
        prompt_eval_count: embeddings.num_prompt_tokens,
    }))
}

/// Without a prompt the model is loaded, and the vector is empty.
pub async fn handle_legacy(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    fields: Fields,
) -> Result<Response<Body>> {
    let (delivery, request): (Delivery, LegacyRequest) = (fields.read()?, fields.read()?);
    let texts = request.prompt.into_iter().filter(|prompt| !prompt.is_empty()).collect();
    let loaded = delivery.load(&app, &visit).await?;
    let mut vectors = of_texts(&app, &visit, &loaded, texts, true).await?.vectors;
    Ok(body::json(&LegacyReply { embedding: vectors.pop().unwrap_or(Vector(Vec::new())) }))
}

/// `truncate`: texts that are longer than the model's context lose their end, as Ollama has it.
async fn of_texts(app: &App, visit: &Visit, loaded: &Loaded, texts: Vec<String>, truncate: bool) -> Result<Embeddings> {
    let mut prompts = Vec::new();
    for text in texts {
        let mut tokens = ask::tokens(&loaded.model, Prompt::Text(text)).await?;
        if truncate {
            tokens.truncate(loaded.model.engine.model().max_model_len);
        }
        prompts.push(Prompt::Tokens(tokens));
    }
    embed(app, visit, &loaded.model, prompts).await
}
