//! Routes that belong to no dialect: tokens and texts, and which models are in memory.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use ferrule_engine::text::Tokenizer;
use ferrule_engine::{ChatMessage, TokenId};
use serde::Deserialize;
use serde_json::json;

use super::app::App;
use super::ask;
use super::body::{self, Json};
use super::error::{Result, ServeError};
use super::models::{Lease, Resident};
use super::openai::{self, Conversation, Message};
use super::visit::Visit;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/apply-template", post(apply_template))
        .route("/models/resident", get(residents))
        .route("/models/unload", post(unload))
}

/// vLLM's fields (`prompt` or `messages`) and llama.cpp's (`content`).
#[derive(Debug, Deserialize)]
struct Tokenize {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    /// With messages, as in a chat.
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    content: Option<String>,
    /// With a prompt; true unless the request says.
    add_special_tokens: Option<bool>,
    /// With content; false unless the request says.
    add_special: Option<bool>,
    /// With content: control tokens are recognised in the text.
    parse_special: Option<bool>,
    with_pieces: Option<bool>,
    return_token_strs: Option<bool>,
}

async fn tokenize(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Json(request): Json<Tokenize>,
) -> Result<Response<Body>> {
    let model = app.model(&visit, request.model.as_deref(), None).await?;
    let texts = |tokens: &[TokenId]| {
        let tokenizer = model.engine.model().tokenizer.as_deref();
        tokens.iter().map(|&token| openai::token_text(tokenizer, token)).collect::<Vec<_>>()
    };
    if let Some(content) = request.content {
        let (special, parse) = (request.add_special.unwrap_or(false), request.parse_special.unwrap_or(true));
        let tokens = tokenizer(&model)?.encode(&content, special, parse)?;
        let pieces = || tokens.iter().zip(texts(&tokens)).map(|(id, piece)| json!({"id": id, "piece": piece}));
        return Ok(match request.with_pieces.unwrap_or(false) {
            true => body::json(&json!({"tokens": pieces().collect::<Vec<_>>()})),
            false => body::json(&json!({"tokens": tokens})),
        });
    }
    let tokens = match (request.prompt, request.messages) {
        (Some(text), None) => tokenizer(&model)?.encode(&text, request.add_special_tokens.unwrap_or(true), false)?,
        (None, Some(messages)) => {
            let Tokenize { add_generation_prompt, continue_final_message, .. } = request;
            let conversation = Conversation { messages, add_generation_prompt, continue_final_message };
            ask::tokens(&model, conversation.prompt()?).await?
        }
        _ => return Err(ServeError::invalid("prompt", "the request needs one of: prompt, messages, content")),
    };
    let texts = request.return_token_strs.unwrap_or(false).then(|| texts(&tokens));
    Ok(body::json(&json!({
        "count": tokens.len(),
        "max_model_len": model.engine.model().max_model_len,
        "tokens": tokens,
        "token_strs": texts,
    })))
}

fn tokenizer(model: &Lease) -> Result<&Tokenizer> {
    let without = || ServeError::invalid("model", format!("the model '{}' has no tokenizer", model.served.name));
    model.engine.model().tokenizer.as_deref().ok_or_else(without)
}

#[derive(Debug, Deserialize)]
struct Detokenize {
    model: Option<String>,
    tokens: Vec<TokenId>,
}

/// `prompt` is vLLM's name for the text, `content` llama.cpp's.
async fn detokenize(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Json(request): Json<Detokenize>,
) -> Result<Response<Body>> {
    let model = app.model(&visit, request.model.as_deref(), None).await?;
    let vocab_size = model.engine.model().vocab_size;
    if let Some(token) = request.tokens.iter().find(|&&token| token as usize >= vocab_size) {
        let message = format!("tokens has {token}, but the vocabulary has {vocab_size} tokens");
        return Err(ServeError::invalid("tokens", message));
    }
    let text = tokenizer(&model)?.decode(&request.tokens, false);
    Ok(body::json(&json!({"prompt": text, "content": text})))
}

#[derive(Debug, Deserialize)]
struct ApplyTemplate {
    model: Option<String>,
    messages: Vec<Message>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
}

async fn apply_template(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Json(request): Json<ApplyTemplate>,
) -> Result<Response<Body>> {
    let messages: Vec<ChatMessage> = openai::conversation(request.messages)?;
    let model = app.model(&visit, request.model.as_deref(), None).await?;
    let info = model.engine.model();
    let without = || ServeError::invalid("model", format!("the model '{}' has no chat template", model.served.name));
    let template = info.chat_template.as_ref().ok_or_else(without)?;
    let prompt = match request.continue_final_message.unwrap_or(false) {
        true => template.render_open(&messages)?,
        false => template.render(&messages, request.add_generation_prompt.unwrap_or(true))?,
    };
    Ok(body::json(&json!({"prompt": prompt})))
}

/// For `ferrule ps`.
async fn residents(State(app): State<App>) -> Response<Body> {
    let models: Vec<_> = app.registry.residents().iter().map(describe).collect();
    body::json(&json!({"models": models, "memory_budget_bytes": app.registry.config().memory_budget}))
}

fn describe(resident: &Resident) -> serde_json::Value {
    let Resident { model, expires, num_leases, .. } = resident;
    let info = model.engine.model();
    let mut told = model.describe();
    told["weight_bytes"] = json!(info.weight_bytes);
    told["kv_cache_bytes"] = json!(info.kv_cache_bytes);
    told["kv_cache_tokens"] = json!(info.kv_cache_tokens);
    told["load_ms"] = json!(model.load_time.as_secs_f64() * 1e3);
    told["num_users"] = json!(num_leases);
    told["expires_in_s"] = json!(expires.map(|at| at.saturating_duration_since(Instant::now()).as_secs_f64()));
    told
}

#[derive(Debug, Deserialize)]
struct Unload {
    model: String,
}

/// For `ferrule stop`: the model goes as soon as nobody uses it.
async fn unload(State(app): State<App>, Json(request): Json<Unload>) -> Result<Response<Body>> {
    let served = app.registry.catalog().find(Some(&request.model))?;
    match app.registry.expire(&served) {
        true => Ok(body::json(&json!({"model": served.name, "status": "unloading"}))),
        false => Err(ServeError::model_not_found(&request.model, "is not in memory")),
    }
}
