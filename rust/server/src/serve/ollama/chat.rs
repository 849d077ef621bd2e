//! `/api/chat`

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::Response;
use ferrule_engine::{ChatMessage, Prompt};
use serde::Deserialize;
use serde_json::Value;

use super::reply::{self, Reply, Shape};
use super::request::{Delivery, UNBUILT};
use crate::serve::app::App;
use crate::serve::ask::Ask;
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::Fields;
use crate::serve::visit::Visit;

#[derive(Debug, Deserialize)]
struct ChatRequest {
    messages: Option<Vec<Message>>,
}

/// What an assistant thought (`thinking`) is not part of the conversation, as with Ollama's models that do not think.
#[derive(Debug, Deserialize)]
struct Message {
    role: String,
    content: Option<String>,
    images: Option<Vec<Value>>,
    tool_calls: Option<Vec<Value>>,
}

impl Message {
    fn convert(self, i: usize) -> Result<ChatMessage> {
        if !["system", "user", "assistant"].contains(&self.role.as_str()) {
            let message = format!("messages[{i}].role is '{}': it must be system, user or assistant", self.role);
            return Err(ServeError::invalid(&format!("messages[{i}].role"), message));
        }
        for (name, list) in [("images", &self.images), ("tool_calls", &self.tool_calls)] {
            if list.as_ref().is_some_and(|list| !list.is_empty()) {
                let param = format!("messages[{i}].{name}");
                return Err(ServeError::invalid(&param, format!("{param} is not supported by this server")));
            }
        }
        Ok(ChatMessage { role: self.role, content: self.content.unwrap_or_default() })
    }
}

pub async fn handle(
    State(app): State<App>,
    Extension(visit): Extension<Arc<Visit>>,
    fields: Fields,
) -> Result<Response<Body>> {
    fields.refuse(UNBUILT)?;
    let (delivery, request): (Delivery, ChatRequest) = (fields.read()?, fields.read()?);
    let params = delivery.params()?;
    let messages = request.messages.unwrap_or_default();
    if messages.is_empty() {
        return Ok(reply::idle(Shape::Chat, &delivery, delivery.idle(&app, &visit).await?));
    }
    let messages = messages.into_iter().enumerate().map(|(i, message)| message.convert(i)).collect::<Result<_>>()?;
    let loaded = delivery.load(&app, &visit).await?;
    let reply = Reply::new(Shape::Chat, &delivery, &visit, &loaded);
    let ask = Ask { prompt: Prompt::Chat(messages), params, priority: 0, cache_salt: None };
    let answer = app.ask(&visit, &loaded.model, ask).await?;
    drop(loaded);
    reply.send(answer, delivery.is_stream()).await
}
