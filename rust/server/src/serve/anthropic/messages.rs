//! `/v1/messages` and `/v1/messages/count_tokens`

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use serde::Deserialize;
use serde_json::json;

use super::reply::Reply;
use super::request;
use super::sse::Sse;
use super::stream::MessageFramer;
use crate::serve::app::App;
use crate::serve::ask;
use crate::serve::body::{self, EVENT_STREAM};
use crate::serve::error::Result;
use crate::serve::fields::Fields;
use crate::serve::visit::Visit;

#[derive(Debug, Deserialize)]
struct Delivery {
    model: Option<String>,
    stream: Option<bool>,
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    fields: Fields,
) -> Result<Response<Body>> {
    let (delivery, ask): (Delivery, _) = (fields.read()?, request::ask(&fields)?);
    let max_tokens = ask.params.max_tokens;
    let model = app.model(&visit, delivery.model.as_deref(), None).await?;
    let answer = app.ask(&visit, &model, ask).await?;
    let reply = Reply::new(&visit, &model, max_tokens);
    if delivery.stream.unwrap_or(false) {
        let framer = MessageFramer::new(reply, answer.prompt.len(), Sse { request_id: visit.id.clone() });
        return Ok(body::stream(vec![answer], framer, EVENT_STREAM));
    }
    Ok(body::json(&reply.whole(&answer.collect().await?)))
}

pub async fn count_tokens(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    fields: Fields,
) -> Result<Response<Body>> {
    let (delivery, prompt): (Delivery, _) = (fields.read()?, request::prompt(&fields)?);
    let model = app.model(&visit, delivery.model.as_deref(), None).await?;
    let tokens = ask::tokens(&model, prompt).await?;
    Ok(body::json(&json!({"input_tokens": tokens.len()})))
}
