//! The `ferrule` command: one file per command, and what they share.

mod answer;
mod args;
mod certificate;
mod client;
mod commands;
mod engine_args;
mod facts;
mod failure;
mod interrupt;
mod machine;
mod print;
pub mod progress;
mod remote;
mod serve;
pub mod units;

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::Parser;

use crate::args::Cli;
use crate::failure::Failure;

/// Runs the command with `args` (the program's name first) and returns its exit code.
pub fn main(args: Vec<OsString>) -> i32 {
    interrupt::restore_default();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(err) => {
            // Help and version come this way too; a closed pipe is no failure of theirs.
            let _ = err.print();
            return err.exit_code();
        }
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| commands::run(cli.command)));
    match outcome.unwrap_or_else(|_| Err(Failure::internal("a panic, reported above"))) {
        Ok(()) => 0,
        Err(failure) => failure.report(),
    }
}
