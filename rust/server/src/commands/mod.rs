//! The commands, one file each.

pub mod bench;
pub mod chat;
pub mod cp;
pub mod doctor;
pub mod key;
pub mod list;
pub mod openapi;
pub mod perplexity;
pub mod plan;
pub mod ps;
pub mod pull;
pub mod quantize;
pub mod rm;
pub mod run;
pub mod serve;
pub mod show;
pub mod stop;

use std::path::PathBuf;

use ferrule_engine::weights::packed::PackedCache;
use ferrule_store::Store;

use crate::args::Command;
use crate::failure::Result;
use crate::progress::Downloads;

pub fn run(command: Command) -> Result {
    match command {
        Command::Run(run) => run.execute(),
        Command::Serve(serve) => serve.execute(),
        Command::Ps(ps) => ps.execute(),
        Command::Stop(stop) => stop.execute(),
        Command::Key(key) => key.execute(),
        Command::Openapi(openapi) => openapi.execute(),
        Command::Bench(bench) => bench.execute(),
        Command::Perplexity(perplexity) => perplexity.execute(),
        Command::Quantize(quantize) => quantize.execute(),
        Command::Plan(plan) => plan.execute(),
        Command::Doctor(doctor) => doctor.execute(),
        Command::Pull(pull) => pull.execute(),
        Command::List(list) => list.execute(),
        Command::Show(show) => show.execute(),
        Command::Cp(cp) => cp.execute(),
        Command::Rm(rm) => rm.execute(),
    }
}

/// The packed weights that stand beside the store's models.
fn packed_weights(store: &Store) -> PackedCache {
    PackedCache::new(store.packed_weights(), u64::MAX)
}

/// The model's files, fetched first if they are not here.
fn locate(model: &str) -> Result<PathBuf> {
    Ok(Store::open_default()?.locate(model, &mut Downloads::default())?)
}
