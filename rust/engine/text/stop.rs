//! Stop strings, found across any split into deltas.

/// Holds back text that may become a stop string.
#[derive(Debug)]
pub struct StopStrings {}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopHit {
    /// Into the list that was given.
    pub index: usize,
    /// Text before the stop string, not emitted yet.
    pub text: String,
}

impl StopStrings {
    pub fn new(_stop: &[String]) -> Self {
        todo!()
    }

    /// The text that is safe to emit now, or the first stop string that is complete.
    pub fn push(&mut self, _text: &str) -> Result<String, StopHit> {
        todo!()
    }

    /// What was held back, at the end.
    pub fn finish(&mut self) -> String {
        todo!()
    }
}
