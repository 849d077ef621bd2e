//! `ferrule key`

use std::io::Read;
use std::path::PathBuf;

use clap::Args;

use crate::failure::{Failure, Result};
use crate::print;
use crate::serve::auth::{Key as ApiKey, KeyFile, KeyLimits, Secret, hex, sha256};

/// Adds a key to the file that `ferrule serve --api-key-file` reads, and prints it. Only its hash is kept, unless AWS's
/// clients are to sign with it. Servers that run take it up within a second.
#[derive(Debug, Args)]
pub struct Key {
    /// The file; it is made if it is not there
    file: PathBuf,
    /// Whose key it is; one that has this name is replaced
    name: String,
    /// Let AWS's clients sign requests: NAME is their access key id, the key their secret. The file then has the key itself
    #[arg(long)]
    sigv4: bool,
    /// Requests per minute [default: no limit]
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Prompt and generated tokens per minute [default: no limit]
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Tokens in all, which servers count in FILE.usage [default: no limit]
    #[arg(long, value_name = "N")]
    token_budget: Option<u64>,
}

impl Key {
    pub fn execute(self) -> Result {
        let mut file = match self.file.exists() {
            true => KeyFile::read(&self.file).map_err(Failure::usage)?,
            false => KeyFile::default(),
        };
        let secret = new_secret()?;
        let limits = KeyLimits {
            requests_per_minute: self.requests_per_minute,
            tokens_per_minute: self.tokens_per_minute,
            token_budget: self.token_budget,
        };
        let sigv4_secret = self.sigv4.then(|| Secret::new(&secret));
        file.keys.retain(|key| key.name != self.name);
        file.keys.push(ApiKey { name: self.name, sha256: sha256(&secret), sigv4_secret, limits });
        file.check().map_err(Failure::usage)?;
        file.write(&self.file).map_err(Failure::machine)?;
        print::line(&secret)
    }
}

/// 192 bits from the system's source of randomness.
fn new_secret() -> Result<String> {
    let mut bytes = [0; 24];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map_err(|err| Failure::machine(format!("/dev/urandom: {err}")))?;
    Ok(format!("sk-{}", hex(&bytes)))
}
