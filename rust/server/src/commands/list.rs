//! `ferrule list`

use clap::Args;
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
        if self.json {
            let models: Vec<_> = models.iter().map(to_json).collect();
            return print::json(&json!({ "store": store.home(), "models": models }));
        }
        if models.is_empty() {
            let known: Vec<&str> = store.catalogue().entries().iter().map(|entry| entry.name.as_str()).collect();
            print::note(&format!("no models in {}; try: ferrule pull {}", store.home().display(), known[0]));
            return Ok(());
        }
        let rows: Vec<_> = models.iter().map(row).collect();
        print::table(&["NAME", "SIZE", "PARAMETERS", "TYPE", "LICENCE"], &[1, 2], &rows)
    }
}

fn row(model: &Model) -> Vec<String> {
    let facts = Facts::open(&model.path()).ok();
    let fact = |of: fn(&Facts) -> String| facts.as_ref().map_or("?".into(), of);
    vec![
        model.name.clone(),
        units::bytes(model.bytes()),
        fact(|facts| units::count(facts.num_parameters)),
        fact(Facts::quantization),
        model.license.clone().unwrap_or("?".into()),
    ]
}
