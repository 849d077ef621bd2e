//! The `ferrule` command.

use std::ffi::OsString;

/// Runs the command with `args` (the program's name first) and returns its exit code.
pub fn main(args: Vec<OsString>) -> i32 {
    eprintln!("error: {} has no commands yet", args.first().map_or("ferrule".into(), |name| name.to_string_lossy()));
    2
}
