//! A packed file that is still to be written.

use std::thread::{Builder, JoinHandle};

use super::{NamedMatrix, PackedCache, SourceStamp};

/// Writes when it is told to, or when it is dropped, which waits for the end of the writing. It shares the
/// matrices' memory.
#[derive(Debug)]
pub struct PendingWrite {
    job: Option<Job>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    cache: PackedCache,
    source: SourceStamp,
    matrices: Vec<NamedMatrix>,
}

impl Job {
    fn run(self) {
        self.cache.store(&self.source, &self.matrices);
    }
}

impl PendingWrite {
    pub fn new(cache: PackedCache, source: SourceStamp, matrices: Vec<NamedMatrix>) -> Self {
        Self { job: Some(Job { cache, source, matrices }), thread: None }
    }

    /// Begins on a thread of its own, the first time that it is called.
    pub fn start(&mut self) {
        let Some(job) = self.job.take() else { return };
        match Builder::new().name("ferrule-packed".into()).spawn(|| job.run()) {
            Ok(thread) => self.thread = Some(thread),
            Err(err) => tracing::debug!("no thread to write packed weights: {err}"),
        }
    }
}

impl Drop for PendingWrite {
    fn drop(&mut self) {
        self.start();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported, and concerns nobody else.
            let _ = thread.join();
        }
    }
}
