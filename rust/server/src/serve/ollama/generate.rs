//! `/api/generate`

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use ferrule_engine::{ChatMessage, EngineHandle, Prompt, TokenId};
use serde::Deserialize;

use super::reply::{self, Reply, Shape};
use super::request::{Delivery, UNBUILT};
use crate::serve::app::App;
use crate::serve::ask::{self, Ask};
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::Fields;
use crate::serve::visit::Visit;

#[derive(Debug, Deserialize)]
struct GenerateRequest {
    #[serde(default)]
    prompt: Option<String>,
    system: Option<String>,
    /// What an earlier answer gave as its `context`.
    context: Option<Vec<TokenId>>,
    raw: Option<bool>,
}

impl GenerateRequest {
    fn is_raw(&self) -> bool {
        self.raw.unwrap_or(false)
    }

    fn has_system(&self) -> bool {
        self.system.as_ref().is_some_and(|system| !system.is_empty())
    }

    fn check(&self) -> Result<()> {
        let has_context = self.context.as_ref().is_some_and(|context| !context.is_empty());
        match self.is_raw() && (self.has_system() || has_context) {
            true => Err(ServeError::invalid("raw", "raw mode does not support template, system, or context")),
            false => Ok(()),
        }
    }

    /// The prompt's tokens, after those of the conversation so far.
    fn tokens(self, engine: &EngineHandle) -> ferrule_engine::Result<Vec<TokenId>> {
        // A base model's text is continued, as if it were raw.
        let as_it_is = self.is_raw() || (engine.model().chat_template.is_none() && !self.has_system());
        let (prompt, mut tokens) = (self.prompt.unwrap_or_default(), self.context.unwrap_or_default());
        let new = match as_it_is {
            true => ask::written(engine, &prompt)?,
            false => {
                let system = self.system.filter(|system| !system.is_empty());
                let system = system.map(|system| ChatMessage::new("system", system));
                engine.tokenize(Prompt::Chat(system.into_iter().chain([ChatMessage::new("user", prompt)]).collect()))?
            }
        };
        // The beginning of a text stands at the beginning only.
        let again = usize::from(!tokens.is_empty() && new.first().is_some_and(|&token| Some(token) == bos(engine)));
        tokens.extend(&new[again..]);
        Ok(tokens)
    }
}

fn bos(engine: &EngineHandle) -> Option<TokenId> {
    engine.model().tokenizer.as_ref()?.bos()
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    fields: Fields,
) -> Result<Response<Body>> {
    fields.refuse(UNBUILT)?;
    let (delivery, request): (Delivery, GenerateRequest) = (fields.read()?, fields.read()?);
    request.check()?;
    let params = delivery.params()?;
    if request.prompt.as_ref().is_none_or(String::is_empty) {
        return Ok(reply::idle(Shape::Generate, &delivery, delivery.idle(&app, &visit).await?));
    }
    let loaded = delivery.load(&app, &visit).await?;
    let reply = Reply::new(Shape::Generate, &delivery, &visit, &loaded);
    let reply = if request.is_raw() { reply } else { reply.with_context() };
    let num_bytes = request.prompt.iter().chain(&request.system).map(String::len).sum();
    let tokens = ask::tokenize(&loaded.model, num_bytes, |engine| request.tokens(engine)).await?;
    let ask = Ask { prompt: Prompt::Tokens(tokens), params, priority: 0, cache_salt: None };
    let answer = app.ask(&visit, &loaded.model, ask).await?;
    drop(loaded);
    reply.send(answer, delivery.is_stream()).await
}
