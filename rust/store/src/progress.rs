//! How the store tells what it is doing.

/// Receives what a person wants to see. One file is under way at a time.
pub trait Progress {
    /// A sentence worth reading: the licence, a source that failed, a wait.
    fn message(&mut self, text: &str);

    /// `what` begins; `total` is in bytes, None if unknown.
    fn begin(&mut self, what: &str, total: Option<u64>);

    /// Bytes of it that are here, those of earlier attempts included.
    fn position(&mut self, bytes: u64);

    /// It has ended, well or not.
    fn end(&mut self);

    /// Asked often while bytes come: true stops the pull, and what has arrived is kept.
    fn is_cancelled(&mut self) -> bool {
        false
    }
}

/// Tells nobody.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn message(&mut self, _text: &str) {}
    fn begin(&mut self, _what: &str, _total: Option<u64>) {}
    fn position(&mut self, _bytes: u64) {}
    fn end(&mut self) {}
}
