//! `/model/{id}/count-tokens`

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ferrule_engine::Prompt;
use serde::Deserialize;
use serde_json::json;

use super::{ModelId, converse, invoke};
use crate::serve::app::App;
use crate::serve::body::{self, Json};
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::Fields;
use crate::serve::visit::Visit;

#[derive(Deserialize)]
pub struct CountRequest {
    input: Input,
}

/// A request of one of two kinds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Input {
    converse: Option<Fields>,
    invoke_model: Option<InvokeModel>,
}

#[derive(Deserialize)]
struct InvokeModel {
    /// In base64.
    body: String,
}

impl Input {
    fn prompt(self) -> Result<Prompt> {
        match (self.converse, self.invoke_model) {
            (Some(fields), None) => converse::prompt(&fields),
            (None, Some(InvokeModel { body })) => {
                let param = "input.invokeModel.body";
                let bytes = BASE64_STANDARD.decode(body);
                let bytes = bytes.map_err(|err| ServeError::invalid(param, format!("{param} is not base64: {err}")))?;
                invoke::ask(&body::parse(&bytes)?).map(|ask| ask.prompt)
            }
            _ => Err(ServeError::invalid("input", "input needs one of converse and invokeModel")),
        }
    }
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    ModelId(id): ModelId,
    Json(request): Json<CountRequest>,
) -> Result<Response<Body>> {
    let prompt = request.input.prompt()?;
    let model = app.model(&visit, Some(&id), None).await?;
    let tokens = invoke::tokens(&model, prompt).await?;
    Ok(body::json(&json!({"inputTokens": tokens.len()})))
}
