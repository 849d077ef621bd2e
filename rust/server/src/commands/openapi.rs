//! `ferrule openapi`

use clap::Args;

use crate::failure::Result;
use crate::{print, serve};

/// The same document that a server has at /openapi.json, for those who generate clients.
#[derive(Debug, Args)]
pub struct OpenApi {}

impl OpenApi {
    pub fn execute(self) -> Result {
        print::line(&format!("{:#}", serve::openapi()))
    }
}
