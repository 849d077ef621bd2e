//! `/model/{id}/converse` and `/model/{id}/converse-stream`

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use ferrule_engine::{Prompt, SamplingParams};
use serde::{Deserialize, Serialize};

use super::ModelId;
use super::conversation::Conversation;
use super::event_stream::EVENT_STREAM;
use super::reply::{ConverseFramer, Reply};
use crate::serve::app::App;
use crate::serve::ask::{Answer, Ask};
use crate::serve::body;
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::{Fields, Unbuilt, is_empty, never, unbuilt};
use crate::serve::visit::Visit;

const UNBUILT: &[Unbuilt] = &[
    unbuilt("toolConfig", is_empty),
    unbuilt("guardrailConfig", never),
    unbuilt("promptVariables", is_empty),
    unbuilt("outputConfig", is_empty),
    unbuilt("additionalModelResponseFieldPaths", is_empty),
    unbuilt("performanceConfig", |config| config["latency"] == "standard"),
];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConverseRequest {
    inference_config: Option<InferenceConfig>,
    additional_model_request_fields: Option<AdditionalFields>,
    service_tier: Option<ServiceTier>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InferenceConfig {
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    stop_sequences: Option<Vec<String>>,
}

/// What Converse leaves to models. As with Amazon's, what the model does not know is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdditionalFields {
    top_k: Option<usize>,
    min_p: Option<f32>,
    seed: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTier {
    #[serde(rename = "type")]
    tier: Tier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Tier {
    Priority,
    Default,
    Flex,
}

impl Tier {
    fn priority(self) -> i32 {
        match self {
            Self::Priority => 1,
            Self::Default => 0,
            Self::Flex => -1,
        }
    }
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    ModelId(id): ModelId,
    fields: Fields,
) -> Result<Response<Body>> {
    let (answer, reply) = begin(&app, &visit, &id, &fields).await?;
    Ok(body::json(&reply.whole(&answer.collect().await?)))
}

pub async fn stream(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    ModelId(id): ModelId,
    fields: Fields,
) -> Result<Response<Body>> {
    let (answer, reply) = begin(&app, &visit, &id, &fields).await?;
    Ok(body::stream(vec![answer], ConverseFramer::new(reply), EVENT_STREAM))
}

async fn begin(app: &App, visit: &Arc<Visit>, id: &str, fields: &Fields) -> Result<(Answer, Reply)> {
    let (ask, reply) = read(fields)?;
    let model = app.model(visit, Some(id), None).await?;
    Ok((app.ask(visit, &model, ask).await?, reply))
}

/// What a request wants of the model, and how it is answered.
fn read(fields: &Fields) -> Result<(Ask, Reply)> {
    let prompt = prompt(fields)?;
    let request: ConverseRequest = fields.read()?;
    let params = params(
        request.inference_config.unwrap_or_default(),
        request.additional_model_request_fields.unwrap_or_default(),
    )?;
    let reply = Reply { max_tokens: params.max_tokens, service_tier: request.service_tier };
    let priority = request.service_tier.map_or(0, |service| service.tier.priority());
    Ok((Ask { prompt, params, priority, cache_salt: None }, reply))
}

/// The conversation alone, as for counting its tokens.
pub fn prompt(fields: &Fields) -> Result<Prompt> {
    fields.refuse(UNBUILT)?;
    fields.read::<Conversation>()?.prompt()
}

fn params(config: InferenceConfig, additional: AdditionalFields) -> Result<SamplingParams> {
    if config.max_tokens == Some(0) {
        return Err(ServeError::invalid("inferenceConfig.maxTokens", "inferenceConfig.maxTokens is 0: at least 1"));
    }
    let default = SamplingParams::default();
    Ok(SamplingParams {
        // An answer may take all the room that the prompt leaves.
        max_tokens: config.max_tokens.unwrap_or(usize::MAX),
        temperature: config.temperature.unwrap_or(default.temperature),
        top_p: config.top_p.unwrap_or(default.top_p),
        top_k: additional.top_k.unwrap_or(default.top_k),
        min_p: additional.min_p.unwrap_or(default.min_p),
        seed: additional.seed,
        stop: config.stop_sequences.unwrap_or_default(),
        ..default
    })
}
