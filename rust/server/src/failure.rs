//! How a command ends that did not end well.

use std::fmt::Display;
use std::io;

use ferrule_engine::error::Fault;

pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Exit codes; `--help` documents them.
const INTERNAL: i32 = 1;
const CALLER: i32 = 2;
const MODEL: i32 = 3;
const MACHINE: i32 = 4;
const INTERRUPTED: i32 = 130;

#[derive(Debug)]
pub struct Failure {
    code: i32,
    /// None: there is nothing to say, or it was said.
    message: Option<String>,
}

impl Failure {
    pub fn internal(message: impl Display) -> Self {
        Self { code: INTERNAL, message: Some(format!("internal error: {message}")) }
    }

    pub fn usage(message: impl Display) -> Self {
        Self { code: CALLER, message: Some(message.to_string()) }
    }

    pub fn machine(message: impl Display) -> Self {
        Self { code: MACHINE, message: Some(message.to_string()) }
    }

    pub fn interrupted() -> Self {
        Self { code: INTERRUPTED, message: None }
    }

    /// Says it on stderr and returns the exit code.
    pub fn report(&self) -> i32 {
        if let Some(message) = &self.message {
            eprintln!("error: {message}");
        }
        self.code
    }
}

impl From<ferrule_engine::Error> for Failure {
    fn from(err: ferrule_engine::Error) -> Self {
        let code = match err.fault() {
            Fault::Caller => CALLER,
            Fault::Model => MODEL,
            Fault::Machine => MACHINE,
            Fault::Ferrule => INTERNAL,
        };
        Self { code, message: Some(err.to_string()) }
    }
}

impl From<ferrule_store::Error> for Failure {
    fn from(err: ferrule_store::Error) -> Self {
        let code = match err.fault() {
            ferrule_store::Fault::Caller => CALLER,
            ferrule_store::Fault::Model => MODEL,
            ferrule_store::Fault::Machine => MACHINE,
        };
        Self { code, message: Some(err.to_string()) }
    }
}

/// Writing to stdout or stderr failed. A reader that has left is no failure.
impl From<io::Error> for Failure {
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::BrokenPipe => Self { code: 0, message: None },
            _ => Self::machine(format!("output: {err}")),
        }
    }
}
