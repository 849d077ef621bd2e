//! `ferrule ps`

use clap::Args;
use serde_json::Value;

use crate::client::ServerArgs;
use crate::failure::Result;
use crate::{print, units};

#[derive(Debug, Args)]
pub struct Ps {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

impl Ps {
    pub fn execute(self) -> Result {
        let resident = self.server.client().get("/models/resident")?;
        if self.json {
            return print::json(&resident);
        }
        let rows: Vec<_> = resident["models"].as_array().into_iter().flatten().map(row).collect();
        if rows.is_empty() {
            print::note("no model is in memory");
            return Ok(());
        }
        print::table(
            &["NAME", "WEIGHTS", "KV CACHE", "CONTEXT", "RUNNING", "WAITING", "UNTIL"],
            &[1, 2, 3, 4, 5],
            &rows,
        )
    }
}

fn row(model: &Value) -> Vec<String> {
    let bytes = |field: &str| units::bytes(model[field].as_u64().unwrap_or(0));
    let until = match model["expires_in_s"].as_f64() {
        Some(secs) => format!("in {secs:.0} s"),
        None if model["num_users"].as_u64().unwrap_or(0) > 0 => "in use".into(),
        None => "it is stopped".into(),
    };
    vec![
        model["name"].as_str().unwrap_or_default().to_owned(),
        bytes("weight_bytes"),
        bytes("kv_cache_bytes"),
        model["max_model_len"].to_string(),
        model["num_running"].to_string(),
        model["num_waiting"].to_string(),
        until,
    ]
}
