//! `ferrule cp`

use clap::Args;
use ferrule_store::Store;

use crate::failure::Result;
use crate::print;

/// Both names stand for the same files: a copy takes no room, and each can be deleted without the other.
#[derive(Debug, Args)]
pub struct Cp {
    /// A name in the store
    model: String,
    /// The second name, such as mine or mine:v1
    copy: String,
}

impl Cp {
    pub fn execute(self) -> Result {
        let model = Store::open_default()?.copy(&self.model, &self.copy)?;
        print::note(&format!("{} is a second name of {}", model.name, self.model));
        Ok(())
    }
}
