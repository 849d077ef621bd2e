//! `/v1/models`

use axum::body::Body;
use axum::http::Response;
use serde_json::{Value, json};

use crate::serve::app::App;
use crate::serve::body;
use crate::serve::error::Result;
use crate::serve::models::{Registry, Served};

pub fn list(app: &App) -> Response<Body> {
    let models: Vec<_> = app.registry.catalog().list().iter().map(|model| describe(model, &app.registry)).collect();
    body::json(&json!({"object": "list", "data": models}))
}

pub fn show(app: &App, id: &str) -> Result<Response<Body>> {
    let model = app.registry.catalog().find(Some(id))?;
    Ok(body::json(&describe(&model, &app.registry)))
}

/// `max_model_len` is known once the model is in memory.
fn describe(model: &Served, registry: &Registry) -> Value {
    let resident = registry.residents().into_iter().find(|resident| resident.model.served.name == model.name);
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "ferrule",
        "root": model.stored.as_ref().unwrap_or(&model.name),
        "parent": null,
        "max_model_len": resident.map(|resident| resident.model.engine.model().max_model_len),
    })
}
