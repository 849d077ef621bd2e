//! `ferrule stop`

use clap::Args;
use serde_json::json;

use crate::client::ServerArgs;
use crate::failure::Result;
use crate::print;

/// The model leaves when the answers that it is giving are complete; the next request for it loads it again.
#[derive(Debug, Args)]
pub struct Stop {
    /// As the server calls it
    model: String,
    #[command(flatten)]
    server: ServerArgs,
}

impl Stop {
    pub fn execute(self) -> Result {
        self.server.client().post("/models/unload", &json!({ "model": self.model }))?;
        print::note(&format!("{} leaves memory as soon as nobody uses it", self.model));
        Ok(())
    }
}
