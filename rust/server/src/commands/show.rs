//! `ferrule show`

use std::path::Path;

use clap::Args;
use ferrule_store::{Model, Name, Store};
use serde_json::{Value, json};

use crate::facts::Facts;
use crate::failure::Result;
use crate::{certificate, print, units};

#[derive(Debug, Args)]
pub struct Show {
    /// A name in the store, or a path
    model: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Show {
    pub fn execute(self) -> Result {
        let store = Store::open_default()?;
        let path = store.resolve(&self.model)?;
        let stored = match store.parse(&self.model)? {
            Name::Path(_) => None,
            _ => Some(store.show(&self.model)?),
        };
        let facts = Facts::open(&path)?;
        let packed = super::packed_weights(&store);
        match self.json {
            true => {
                let stored = stored.map(|model| super::pull::to_json(&model, &packed));
                print::json(&to_json(&path, stored, packed.bytes_of(&path), &facts))
            }
            false => print::fields(&lines(&path, stored.as_ref(), packed.bytes_of(&path), &facts)),
        }
    }
}

fn to_json(path: &Path, stored: Option<Value>, packed_bytes: u64, facts: &Facts) -> Value {
    let config = &facts.config;
    let weights: serde_json::Map<_, _> =
        facts.weights.iter().map(|(dtype, bytes)| (dtype.to_string(), json!(bytes))).collect();
    json!({
        "path": path,
        "store": stored,
        "packed_bytes": packed_bytes,
        "name": config.name,
        "family": config.family,
        "parameters": facts.num_parameters,
        "quantization": facts.quantization(),
        "weight_bytes": facts.weight_bytes(),
        "weights": weights,
        "layers": config.num_layers(),
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position": config.max_position,
        "certificate": facts.certificate,
    })
}

fn lines(path: &Path, stored: Option<&Model>, packed_bytes: u64, facts: &Facts) -> Vec<(&'static str, String)> {
    let config = &facts.config;
    let weights = facts.weights.iter().map(|(dtype, bytes)| format!("{dtype} {}", units::bytes(*bytes)));
    let windows = config.layers.iter().filter(|layer| layer.window.is_some()).count();
    let mut lines = vec![
        ("model", config.name.clone()),
        ("family", config.family.to_owned()),
        ("parameters", units::count(facts.num_parameters)),
        ("weights", weights.collect::<Vec<_>>().join(", ")),
        ("packed", units::bytes(packed_bytes)),
        ("layers", format!("{} ({windows} with a sliding window)", config.num_layers())),
        ("sizes", format!("hidden {}, feed-forward {}", config.hidden_size, config.intermediate_size)),
        ("heads", format!("{} of {}, {} for keys and values", config.num_heads, config.head_dim, config.num_kv_heads)),
        ("vocabulary", config.vocab_size.to_string()),
        ("context", format!("{} tokens", config.max_position)),
        ("path", path.display().to_string()),
    ];
    lines.extend(facts.certificate.iter().flat_map(certificate::lines));
    if let Some(model) = stored {
        lines.push(("licence", model.license.clone().unwrap_or("not named by its source".into())));
        lines.push(("source", model.source.clone()));
    }
    lines
}
