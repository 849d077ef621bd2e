//! `ferrule rm`

use std::io::IsTerminal;

use clap::Args;
use ferrule_store::Store;

use crate::failure::{Failure, Result};
use crate::{print, units};

#[derive(Debug, Args)]
pub struct Rm {
    /// A name in the store
    model: String,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Rm {
    pub fn execute(self) -> Result {
        let store = Store::open_default()?;
        if !self.yes && std::io::stdin().is_terminal() && !print::confirm(&format!("Delete {}?", self.model))? {
            return Err(Failure::usage("nothing was deleted"));
        }
        let packed = match store.show(&self.model) {
            Ok(model) => super::packed_weights(&store).remove(&model.path()),
            Err(_) => 0,
        };
        let bytes = packed + store.remove(&self.model)?;
        print::note(&format!("{} is deleted: {} freed", self.model, units::bytes(bytes)));
        Ok(())
    }
}
