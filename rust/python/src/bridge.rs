//! From the engine's thread to event loops.
//!
//! The engine's thread never waits for the GIL: it leaves a word here, and one thread per engine
//! takes the GIL and passes the word to `loop.call_soon_threadsafe`.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use pyo3::prelude::*;

/// Something on an event loop that has news.
pub trait Awaited: Send + Sync + 'static {
    fn event_loop(&self) -> &Py<PyAny>;

    /// Runs on the event loop.
    fn wake(&self, py: Python<'_>) -> PyResult<()>;
}

/// The way to the bridge's thread, which ends with the last of its owners.
#[derive(Clone)]
pub struct Bridge(Sender<Arc<dyn Awaited>>);

impl Bridge {
    pub fn start() -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new()
            .name("ferrule-asyncio".into())
            .spawn(move || carry(&receiver))
            .expect("the system starts one more thread");
        Self(sender)
    }

    pub fn notify(&self, awaited: Arc<dyn Awaited>) {
        // The thread is gone only when the interpreter is, and nobody listens.
        let _ = self.0.send(awaited);
    }
}

fn carry(receiver: &Receiver<Arc<dyn Awaited>>) {
    while let Ok(first) = receiver.recv() {
        let more = receiver.try_iter();
        let attached = Python::try_attach(|py| {
            for awaited in std::iter::once(first).chain(more) {
                call_soon(py, awaited);
            }
        });
        if attached.is_none() {
            return;
        }
    }
}

fn call_soon(py: Python<'_>, awaited: Arc<dyn Awaited>) {
    let event_loop = awaited.event_loop().clone_ref(py).into_bound(py);
    let scheduled =
        Bound::new(py, Wake(awaited)).and_then(|wake| event_loop.call_method1("call_soon_threadsafe", (wake,)));
    // A closed loop has nobody who waits.
    drop(scheduled);
}

/// The callback that an event loop runs.
#[pyclass(frozen)]
pub struct Wake(pub Arc<dyn Awaited>);

#[pymethods]
impl Wake {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        self.0.wake(py)
    }
}

pub fn running_loop(py: Python<'_>) -> PyResult<Py<PyAny>> {
    Ok(py.import("asyncio")?.call_method0("get_running_loop")?.unbind())
}

/// Whether a future still waits for its result: it may have been cancelled.
pub fn is_pending(future: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(!future.call_method0("done")?.is_truthy()?)
}
