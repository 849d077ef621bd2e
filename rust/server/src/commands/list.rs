//! `ferrule list`

use clap::Args;
use ferrule_engine::weights::packed::PackedCache;
use ferrule_store::{Model, Store};
use serde_json::json;

use super::pull::to_json;
use crate::facts::Facts;
use crate::failure::Result;
use crate::{print, units};

#[derive(Debug, Args)]
pub struct List {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl List {
    pub fn execute(self) -> Result {
        let store = Store::open_default()?;
        let models = store.list()?;
        let packed = super::packed_weights(&store);
        if self.json {
            let models: Vec<_> = models.iter().map(|model| to_json(model, &packed)).collect();
            return print::json(&json!({ "store": store.home(), "models": models }));
        }
        if models.is_empty() {
            let known: Vec<&str> = store.catalogue().entries().iter().map(|entry| entry.name.as_str()).collect();
            print::note(&format!("no models in {}; try: ferrule pull {}", store.home().display(), known[0]));
            return Ok(());
        }
        let rows: Vec<_> = models.iter().map(|model| row(model, &packed)).collect();
        print::table(&["NAME", "SIZE", "PACKED", "PARAMETERS", "TYPE", "LICENCE"], &[1, 2, 3], &rows)
    }
}

fn row(model: &Model, packed: &PackedCache) -> Vec<String> {
    let facts = Facts::open(&model.path()).ok();
    let fact = |of: fn(&Facts) -> String| facts.as_ref().map_or("?".into(), of);
    vec![
        model.name.clone(),
        units::bytes(model.bytes()),
        units::bytes(packed.bytes_of(&model.path())),
        fact(|facts| units::count(facts.num_parameters)),
        fact(Facts::quantization),
        model.license.clone().unwrap_or("?".into()),
    ]
}
