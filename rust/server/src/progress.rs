//! Progress bars on stderr; plain lines where stderr is no terminal.

use std::io::IsTerminal;

use ferrule_engine::quantize;
use ferrule_store::Progress;
use indicatif::{ProgressBar, ProgressStyle};

use crate::{print, units};

const BYTES: &str = "{msg}  {bar:30}  {decimal_bytes} / {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta}";
const BYTES_OF_UNKNOWN: &str = "{msg}  {spinner}  {decimal_bytes}  {decimal_bytes_per_sec}";
const STEPS: &str = "{msg}  {bar:30}  {pos} / {len}  {eta} left";

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates above are sound").progress_chars("━╸┄")
}

/// A download.
#[derive(Debug, Default)]
pub struct Downloads {
    bar: Option<ProgressBar>,
    /// Bytes of earlier attempts are no speed.
    is_new: bool,
}

impl Progress for Downloads {
    fn message(&mut self, text: &str) {
        print::note(text);
    }

    fn begin(&mut self, what: &str, total: Option<u64>) {
        if !std::io::stderr().is_terminal() {
            let size = total.map_or(String::new(), |total| format!(" ({})", units::bytes(total)));
            print::note(&format!("{what}{size}"));
            return;
        }
        let bar = match total {
            Some(total) => ProgressBar::new(total).with_style(style(BYTES)),
            None => ProgressBar::no_length().with_style(style(BYTES_OF_UNKNOWN)),
        };
        self.bar = Some(bar.with_message(what.to_owned()));
        self.is_new = true;
    }

    fn position(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
            if std::mem::take(&mut self.is_new) {
                bar.reset_eta();
            }
        }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// Work in `total` steps. It draws nothing where stderr is no terminal.
pub fn steps(what: &str, total: u64) -> ProgressBar {
    ProgressBar::new(total).with_style(style(STEPS)).with_message(what.to_owned())
}

/// Work of several kinds, one after another, with a bar for each.
#[derive(Debug, Default)]
pub struct Steps(Option<ProgressBar>);

impl quantize::Progress for Steps {
    fn begin(&mut self, what: &str, num_steps: usize) {
        if let Some(done) = self.0.replace(steps(what, num_steps as u64)) {
            done.finish_and_clear();
        }
    }

    fn step(&mut self) -> ferrule_engine::Result<()> {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
        Ok(())
    }

    fn note(&mut self, text: &str) {
        match &self.0 {
            Some(bar) => bar.suspend(|| print::note(text)),
            None => print::note(text),
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}
