//! Ctrl-C, counted instead of deadly while an answer runs.

use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

static COUNT: AtomicUsize = AtomicUsize::new(0);
static INSTALL: Once = Once::new();

/// Tells whether Ctrl-C was pressed since it was made.
#[derive(Debug)]
pub struct Interrupt {
    since: usize,
}

impl Interrupt {
    /// From now on Ctrl-C no longer ends the process.
    pub fn watch() -> Self {
        INSTALL.call_once(|| {
            // Without a handler Ctrl-C ends the process, which is a sound second best.
            let _ = ctrlc::set_handler(|| {
                COUNT.fetch_add(1, Ordering::SeqCst);
            });
        });
        Self { since: COUNT.load(Ordering::SeqCst) }
    }

    pub fn is_pending(&self) -> bool {
        COUNT.load(Ordering::SeqCst) != self.since
    }
}

/// Gives Ctrl-C its default meaning where a host (Python) has taken it; one that is ignored stays so.
#[cfg(unix)]
pub fn restore_default() {
    // SAFETY: SIGINT is a valid signal and SIG_DFL a valid disposition; no handler of ours is replaced.
    unsafe {
        if libc::signal(libc::SIGINT, libc::SIG_DFL) == libc::SIG_IGN {
            libc::signal(libc::SIGINT, libc::SIG_IGN);
        }
    }
}

#[cfg(not(unix))]
pub fn restore_default() {}
