//! `ferrule.quantize`.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use ferrule_engine::quantize::{Options, Progress, Recipe, Text, quantize as make};
use ferrule_engine::{Error, Result};
use ferrule_server::progress::{Downloads, Steps};
use ferrule_store::Store;
use pyo3::prelude::*;

use crate::errors::{Raise, invalid_request};
use crate::wait::interruptible;

/// `ferrule.quantize`'s keyword arguments.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Settings {
    scheme: String,
    group_size: Option<usize>,
    calibration: Option<PathBuf>,
    calibration_tokens: Option<usize>,
    evaluation: Option<PathBuf>,
    threads: Option<usize>,
}

impl Settings {
    fn options(self) -> PyResult<Options> {
        let defaults = Options::new(self.scheme.parse::<Recipe>().raise()?);
        Ok(Options {
            group_size: self.group_size,
            calibration: self.calibration.map_or(Text::Written, Text::File),
            calibration_tokens: self.calibration_tokens.unwrap_or(defaults.calibration_tokens),
            evaluation: self.evaluation,
            threads: self.threads,
            ..defaults
        })
    }
}

/// Progress of work that ends when nobody waits for it any more.
struct Awaited {
    steps: Steps,
    waiting: Weak<()>,
}

impl Progress for Awaited {
    fn begin(&mut self, what: &str, steps: usize) {
        self.steps.begin(what, steps);
    }

    fn step(&mut self) -> Result<()> {
        match self.waiting.upgrade() {
            Some(_) => self.steps.step(),
            None => Err(Error::Cancelled("nobody waits for the quantized model".into())),
        }
    }

    fn note(&mut self, text: &str) {
        self.steps.note(text);
    }
}

/// The certificate, as JSON. Ctrl-C ends the wait at once, and the work with its next step; it can be taken up again.
#[pyfunction]
pub fn quantize(py: Python<'_>, source: PathBuf, target: PathBuf, settings: Settings) -> PyResult<String> {
    let options = settings.options()?;
    let waiting = Arc::new(());
    let mut progress = Awaited { steps: Steps::default(), waiting: Arc::downgrade(&waiting) };
    let made = interruptible(py, move || {
        let name = source.to_str().ok_or_else(|| invalid_request("a model's name must be UTF-8"))?;
        let path = Store::open_default().raise()?.locate(name, &mut Downloads::default()).raise()?;
        let certificate = make(&path, &target, &options, &mut progress).raise()?;
        Ok(certificate.to_json())
    });
    drop(waiting);
    made
}
