//! `/v1/models`, as Anthropic's clients want it.

use std::time::{Duration, UNIX_EPOCH};

use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

use crate::serve::app::App;
use crate::serve::body;
use crate::serve::error::Result;
use crate::serve::models::Served;
use crate::serve::rfc3339::rfc3339;

/// All on one page.
pub fn list(app: &App) -> Response<Body> {
    let models: Vec<_> = app.registry.catalog().list().iter().map(describe).collect();
    let id = |model: Option<&Value>| model.map_or(Value::Null, |model| model["id"].clone());
    let (first, last) = (id(models.first()), id(models.last()));
    body::json(&json!({"data": models, "has_more": false, "first_id": first, "last_id": last}))
}

pub fn show(app: &App, id: &str) -> Result<Response<Body>> {
    app.registry.catalog().find(Some(id)).map(|model| body::json(&describe(&model)))
}

fn describe(model: &Served) -> Value {
    let created_at = rfc3339(UNIX_EPOCH + Duration::from_secs(model.created));
    json!({
        "type": "model",
        "id": model.name,
        "display_name": model.name,
        "created_at": created_at,
        "lifecycle": "active",
    })
}
