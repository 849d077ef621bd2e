//! `/v1/embeddings`

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::prompts::Prompts;
use crate::serve::app::App;
use crate::serve::body::{self, Json};
use crate::serve::embed::{Vector, check_dimensions, embed};
use crate::serve::error::{Result, ServeError};
use crate::serve::visit::Visit;

/// Inputs of one request, as OpenAI has it.
const MAX_INPUTS: usize = 2048;

#[derive(Debug, Deserialize)]
pub struct Request {
    model: Option<String>,
    input: Prompts,
    #[serde(default)]
    encoding_format: EncodingFormat,
    dimensions: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum EncodingFormat {
    #[default]
    Float,
    Base64,
}

#[derive(Debug, Serialize)]
struct List {
    object: &'static str,
    data: Vec<Embedding>,
    model: String,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Embedding {
    object: &'static str,
    index: usize,
    embedding: Encoded,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Encoded {
    Float(Vector),
    /// Little-endian float32.
    Base64(String),
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

impl Encoded {
    fn new(vector: Vector, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Float(vector),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = vector.0.iter().flat_map(|x| x.to_le_bytes()).collect();
                Self::Base64(BASE64_STANDARD.encode(bytes))
            }
        }
    }
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    Json(request): Json<Request>,
) -> Result<Response<Body>> {
    let prompts = request.input.list();
    if !(1..=MAX_INPUTS).contains(&prompts.len()) {
        let message = format!("input has {} entries: it must have 1 to {MAX_INPUTS}", prompts.len());
        return Err(ServeError::invalid("input", message));
    }
    let model = app.model(&visit, request.model.as_deref(), None).await?;
    let embeddings = embed(&app, &visit, &model, prompts).await?;
    check_dimensions(&embeddings.vectors, request.dimensions)?;
    let data = embeddings.vectors.into_iter().enumerate().map(|(index, vector)| {
        let embedding = Encoded::new(vector, request.encoding_format);
        Embedding { object: "embedding", index, embedding }
    });
    let (prompt_tokens, total_tokens) = (embeddings.num_prompt_tokens, embeddings.num_prompt_tokens);
    Ok(body::json(&List {
        object: "list",
        data: data.collect(),
        model: model.served.name.clone(),
        usage: Usage { prompt_tokens, total_tokens },
    }))
}
