//! When waiting sequences join the running ones.

use crate::config::Policy;

impl Policy {
    /// May sequences be admitted in a step that began with `num_running` of them?
    pub(super) fn admits(self, num_running: usize) -> bool {
        match self {
            Self::Continuous => true,
            Self::Static => num_running == 0,
        }
    }

    /// Is a batch completed even if this step has no tokens left for its last members?
    pub(super) fn admits_beyond_budget(self) -> bool {
        self == Self::Static
    }
}
