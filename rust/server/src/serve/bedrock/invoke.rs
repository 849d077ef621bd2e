//! `/model/{id}/invoke` and `/model/{id}/invoke-with-response-stream`: bodies are those of a family of models.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Response};
use ferrule_engine::metrics::RequestMetrics;
use ferrule_engine::{Prompt, TokenId};

use super::ModelId;
use super::claude::Chunks;
use super::event_stream::EVENT_STREAM;
use super::llama::{self, LlamaFramer};
use super::usage::InvocationMetrics;
use crate::serve::anthropic::{self, MessageFramer};
use crate::serve::app::App;
use crate::serve::ask::{self, Answer, Ask};
use crate::serve::body;
use crate::serve::error::{Kind, Result, ServeError};
use crate::serve::fields::Fields;
use crate::serve::models::Lease;
use crate::serve::visit::Visit;

/// Any model takes bodies of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Claude,
    Llama,
}

impl Family {
    fn of(fields: &Fields) -> Result<Self> {
        if fields.has("anthropic_version") {
            Ok(Self::Claude)
        } else if fields.has("prompt") {
            Ok(Self::Llama)
        } else {
            Err(ServeError::new(
                Kind::InvalidRequest,
                "the body is neither one of Anthropic's models, with an anthropic_version, nor one of Llama, with a prompt",
            ))
        }
    }

    fn ask(self, fields: &Fields) -> Result<Ask> {
        match self {
            Self::Claude => anthropic::ask(fields),
            Self::Llama => llama::ask(fields),
        }
    }
}

/// What a body wants of the model.
pub fn ask(fields: &Fields) -> Result<Ask> {
    Family::of(fields)?.ask(fields)
}

/// The prompt's tokens. Whoever writes a text for Llama writes its control tokens too.
pub async fn tokens(model: &Lease, prompt: Prompt) -> Result<Vec<TokenId>> {
    match prompt {
        Prompt::Text(text) => ask::tokenize(model, text.len(), move |engine| ask::written(engine, &text)).await,
        prompt => ask::tokens(model, prompt).await,
    }
}

/// An answer that is under way.
struct Invocation {
    family: Family,
    max_tokens: usize,
    model: Lease,
    answer: Answer,
}

impl Invocation {
    async fn begin(app: &App, visit: &Visit, id: &str, headers: &HeaderMap, fields: &Fields) -> Result<Self> {
        // Who asks for a guardrail relies on it.
        if headers.contains_key("x-amzn-bedrock-guardrailidentifier") {
            let message = "guardrailIdentifier is not supported by this server";
            return Err(ServeError::invalid("guardrailIdentifier", message));
        }
        let family = Family::of(fields)?;
        let ask = family.ask(fields)?;
        let max_tokens = ask.params.max_tokens;
        let model = app.model(visit, Some(id), None).await?;
        let prompt = Prompt::Tokens(tokens(&model, ask.prompt).await?);
        let answer = app.ask(visit, &model, Ask { prompt, ..ask }).await?;
        Ok(Self { family, max_tokens, model, answer })
    }
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    ModelId(id): ModelId,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response<Body>> {
    let Invocation { family, max_tokens, model, answer } =
        Invocation::begin(&app, &visit, &id, &headers, &fields).await?;
    let output = answer.collect().await?;
    let mut response = match family {
        Family::Claude => body::json(&anthropic::Reply::new(&visit, &model, max_tokens).whole(&output)),
        Family::Llama => body::json(&llama::whole(&output)),
    };
    tell_cost(&output.metrics, response.headers_mut());
    Ok(response)
}

pub async fn stream(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    ModelId(id): ModelId,
    headers: HeaderMap,
    fields: Fields,
) -> Result<Response<Body>> {
    let Invocation { family, max_tokens, model, answer } =
        Invocation::begin(&app, &visit, &id, &headers, &fields).await?;
    let prompt_len = answer.prompt.len();
    let mut response = match family {
        Family::Claude => {
            let reply = anthropic::Reply::new(&visit, &model, max_tokens);
            body::stream(vec![answer], MessageFramer::new(reply, prompt_len, Chunks), EVENT_STREAM)
        }
        Family::Llama => body::stream(vec![answer], LlamaFramer::new(prompt_len), EVENT_STREAM),
    };
    response.headers_mut().insert("x-amzn-bedrock-content-type", HeaderValue::from_static("application/json"));
    Ok(response)
}

fn tell_cost(metrics: &RequestMetrics, headers: &mut HeaderMap) {
    let cost = InvocationMetrics::from(metrics);
    headers.insert("x-amzn-bedrock-input-token-count", cost.input_token_count.into());
    headers.insert("x-amzn-bedrock-output-token-count", cost.output_token_count.into());
    headers.insert("x-amzn-bedrock-cache-read-input-token-count", cost.cache_read_input_token_count.into());
    headers.insert("x-amzn-bedrock-invocation-latency", cost.invocation_latency.into());
}
