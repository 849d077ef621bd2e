//! What `/metrics` tells Prometheus, under vLLM's names, so that dashboards made for it work here.

mod histogram;
mod http;
mod model;
mod text;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

pub use http::HttpMetrics;
pub use model::{End, ModelMetrics};

use self::text::Exposition;
use crate::serve::models::Registry;

#[derive(Debug, Default)]
pub struct Metrics {
    models: Mutex<BTreeMap<String, Arc<ModelMetrics>>>,
    pub http: HttpMetrics,
}

impl Metrics {
    /// The figures of the model called `name`; they outlive its time in memory.
    pub fn model(&self, name: &str) -> Arc<ModelMetrics> {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        models.entry(name.into()).or_default().clone()
    }

    /// Prometheus' text format.
    pub fn render(&self, registry: &Registry) -> String {
        let models = self.models.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let residents = registry.residents();
        let mut out = Exposition::default();
        model::render_requests(&models, &mut out);
        model::render_engines(&residents, &mut out);
        self.http.render(&mut out);
        out.finish()
    }
}
