//! The OpenAPI document at `/openapi.json`: a table of operations, and the schemas of their bodies as files.
//!
//! Tests hold it to the routes of the router, in both directions, and schemathesis holds the server to it.

mod operations;

use std::sync::LazyLock;

use axum::Router;
use axum::body::Body;
use axum::http::Response;
use axum::routing::get;
use serde_json::{Map, Value, json};

use self::operations::{OPERATIONS, Operation};
use super::app::App;
use super::body;

/// What bodies look like, by dialect.
const SCHEMAS: [&str; 5] = [
    include_str!("schemas/general.json"),
    include_str!("schemas/openai.json"),
    include_str!("schemas/anthropic.json"),
    include_str!("schemas/ollama.json"),
    include_str!("schemas/bedrock.json"),
];

pub fn routes() -> Router<App> {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(document);
    Router::new().route("/openapi.json", get(async || -> Response<Body> { body::json(&*DOCUMENT) }))
}

/// The document, as `docs/openapi.json` has it.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = describe(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ferrule",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Language models behind the APIs of OpenAI, Anthropic, Ollama and Amazon Bedrock.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        // A server without keys asks for none.
        "security": [{}, {"key": []}],
        "paths": paths,
        "components": {"schemas": schemas(), "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    })
}

fn schemas() -> Map<String, Value> {
    let parse = |text: &str| -> Map<String, Value> { serde_json::from_str(text).expect("a test parses the same text") };
    SCHEMAS.into_iter().flat_map(parse).collect()
}

fn describe(operation: &Operation) -> Value {
    let mut content = Map::new();
    for &(content_type, schema) in operation.responses {
        content.insert(content_type.into(), json!({"schema": reference(schema)}));
    }
    let error = json!({"description": "Refused", "content": {"application/json": {"schema": reference(Some(operation.error))}}});
    let mut described = json!({
        "operationId": operation.id(),
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {"200": {"description": "Done", "content": content}, "4XX": error, "5XX": error},
    });
    if operation.request.is_some() {
        let content = json!({"application/json": {"schema": reference(operation.request)}});
        described["requestBody"] = json!({"required": true, "content": content});
    }
    let parameters: Vec<_> = operation.parameters().map(parameter).collect();
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    described
}

/// None: a text.
fn reference(schema: Option<&str>) -> Value {
    match schema {
        Some(name) => json!({"$ref": format!("#/components/schemas/{name}")}),
        None => json!({"type": "string"}),
    }
}

fn parameter(name: &str) -> Value {
    json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}})
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Names that `value` refers to.
    fn references(value: &Value, found: &mut HashSet<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(name) = fields.get("$ref").and_then(Value::as_str) {
                    found.insert(name.trim_start_matches("#/components/schemas/").into());
                }
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_schema_is_there_and_used() {
        let mut referred = HashSet::new();
        references(&document(), &mut referred);
        assert_eq!(schemas().keys().cloned().collect::<HashSet<_>>(), referred);
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let ids: HashSet<_> = OPERATIONS.iter().map(Operation::id).collect();
        assert_eq!(ids.len(), OPERATIONS.len());
    }
}
