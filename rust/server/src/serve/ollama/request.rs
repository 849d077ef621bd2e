//! What both kinds of requests for an answer have in common.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrule_engine::SamplingParams;
use serde::Deserialize;

use super::find;
use super::options::Options;
use crate::serve::app::App;
use crate::serve::error::{Result, ServeError};
use crate::serve::fields::{Unbuilt, is_empty, is_false, never, unbuilt};
use crate::serve::models::{KeepAlive, Lease, Served};
use crate::serve::visit::Visit;

/// `truncate` and `shift` are not here: what Ollama would cut away unasked is refused, with the limit, in any case.
pub const UNBUILT: &[Unbuilt] = &[
    unbuilt("format", is_empty),
    unbuilt("think", is_false),
    unbuilt("images", is_empty),
    unbuilt("suffix", is_empty),
    unbuilt("template", is_empty),
    unbuilt("tools", is_empty),
    unbuilt("width", never),
    unbuilt("height", never),
    unbuilt("_debug_render_only", is_false),
];

/// Most alternatives per token, as Ollama has it.
const MAX_TOP_LOGPROBS: usize = 20;

#[derive(Debug, Clone, Deserialize)]
pub struct Delivery {
    pub model: Option<String>,
    stream: Option<bool>,
    keep_alive: Option<KeepAlive>,
    options: Option<Options>,
    logprobs: Option<bool>,
    top_logprobs: Option<usize>,
}

/// A model in memory, and how long that took.
pub struct Loaded {
    pub model: Lease,
    pub time: Duration,
}

/// What a request without a prompt did with its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    Load,
    Unload,
}

impl Delivery {
    pub fn is_stream(&self) -> bool {
        self.stream.unwrap_or(true)
    }

    pub fn params(&self) -> Result<SamplingParams> {
        let top = self.top_logprobs.unwrap_or(0);
        if top > MAX_TOP_LOGPROBS {
            let message = format!("top_logprobs is {top}: at most {MAX_TOP_LOGPROBS} are given");
            return Err(ServeError::invalid("top_logprobs", message));
        }
        let logprobs = self.logprobs.unwrap_or(false).then_some(top);
        Ok(self.options.clone().unwrap_or_default().params(logprobs))
    }

    pub async fn load(&self, app: &App, visit: &Arc<Visit>) -> Result<Loaded> {
        let began = Instant::now();
        let served = self.served(app)?;
        let model = app.model(visit, Some(&served.name), self.keep_alive).await?;
        Ok(Loaded { model, time: began.elapsed() })
    }

    /// Without a prompt, a request loads its model, or unloads it if it is to be kept for no time.
    pub async fn idle(&self, app: &App, visit: &Arc<Visit>) -> Result<Idle> {
        match self.keep_alive {
            Some(KeepAlive::For(Duration::ZERO)) => {
                app.registry.expire(&self.served(app)?);
                Ok(Idle::Unload)
            }
            _ => self.load(app, visit).await.map(|_| Idle::Load),
        }
    }

    fn served(&self, app: &App) -> Result<Served> {
        find(app, self.model.as_deref())
    }
}
