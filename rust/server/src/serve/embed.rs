//! From prompts to vectors, for the dialects that serve embeddings.

use ferrule_engine::Prompt;
use serde::Serialize;

use super::app::App;
use super::error::{Kind, Result, ServeError};
use super::models::Lease;
use super::visit::Visit;

/// Prompts of one request in the engine's queue: a long list leaves room for others.
const AT_ONCE: usize = 32;

/// (hidden_size,), unit length: the final hidden state of the prompt's last token.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Vector(pub Vec<f32>);

/// The prompts' vectors, in order.
#[derive(Debug, Default)]
pub struct Embeddings {
    pub vectors: Vec<Vector>,
    pub num_prompt_tokens: usize,
}

pub async fn embed(app: &App, visit: &Visit, model: &Lease, prompts: Vec<Prompt>) -> Result<Embeddings> {
    let mut embeddings = Embeddings::default();
    let mut prompts = prompts.into_iter().peekable();
    while prompts.peek().is_some() {
        let mut answers = Vec::new();
        for prompt in prompts.by_ref().take(AT_ONCE) {
            answers.push(app.embed(visit, model, prompt).await?);
        }
        for answer in answers {
            let output = answer.collect().await?;
            let missing = || ServeError::new(Kind::Internal, "the engine gave no embedding");
            embeddings.vectors.push(Vector(output.embedding.ok_or_else(missing)?));
            embeddings.num_prompt_tokens += output.metrics.num_prompt_tokens;
        }
    }
    Ok(embeddings)
}

/// Vectors have the model's own size. `asked`: what the request wants them to have, called `dimensions` everywhere.
pub fn check_dimensions(vectors: &[Vector], asked: Option<usize>) -> Result<()> {
    let Some((asked, vector)) = asked.zip(vectors.first()) else { return Ok(()) };
    match vector.0.len() {
        len if len == asked => Ok(()),
        len => {
            let message = format!("dimensions is {asked}, and this model's embeddings have {len}: they are not cut");
            Err(ServeError::invalid("dimensions", message))
        }
    }
}
