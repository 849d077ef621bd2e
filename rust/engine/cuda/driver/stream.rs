//! Queues of work, the events that order them, and recorded stretches of them.

use std::sync::Arc;

use super::Context;
use super::api::Handle;
use crate::error::Result;

/// CU_STREAM_NON_BLOCKING: no order with the default stream, which nothing uses.
const NON_BLOCKING: u32 = 1;
/// CU_EVENT_DISABLE_TIMING.
const DISABLE_TIMING: u32 = 2;
/// CU_STREAM_CAPTURE_MODE_THREAD_LOCAL: other threads may allocate meanwhile.
const CAPTURE_THREAD_LOCAL: i32 = 1;

/// A queue of work on the device.
#[derive(Debug)]
pub struct Stream {
    context: Arc<Context>,
    handle: Handle,
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event {
    context: Arc<Context>,
    handle: Handle,
}

/// A stretch of work that was recorded with its arguments, launched as one.
#[derive(Debug)]
pub struct Graph {
    context: Arc<Context>,
    handle: Handle,
}

// SAFETY: the driver may be called from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Send for Event {}
// SAFETY: as above, and methods take `&self` only to enqueue, which the driver locks.
unsafe impl Sync for Event {}
// SAFETY: as above.
unsafe impl Send for Graph {}

impl Stream {
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        context.make_current()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the result lives.
        unsafe { context.api().stream_create(&mut handle, NON_BLOCKING) }?;
        Ok(Self { context: context.clone(), handle })
    }

    pub(in crate::cuda) fn handle(&self) -> Handle {
        self.handle
    }

    /// Waits for the work so far, and reports an error of any of it.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { self.context.api().stream_synchronize(self.handle) }
    }

    /// Work from here on begins after `event`.
    pub fn wait(&self, event: &Event) -> Result<()> {
        // SAFETY: both are alive.
        unsafe { self.context.api().stream_wait(self.handle, event.handle, 0) }
    }

    /// What `enqueue` puts in this stream, recorded instead of run. Waiting, allocating and pageable copies fail meanwhile.
    pub fn capture(&self, enqueue: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let api = self.context.api();
        // SAFETY: the stream is alive and not capturing: captures end in this function.
        unsafe { api.capture_begin(self.handle, CAPTURE_THREAD_LOCAL) }?;
        let enqueued = enqueue();
        let mut recorded = std::ptr::null_mut();
        // SAFETY: begun above; the result lives.
        let ended = unsafe { api.capture_end(self.handle, &mut recorded) };
        let mut handle = std::ptr::null_mut();
        let instantiated = enqueued.and(ended).and_then(|()| {
            // SAFETY: the recording is alive; the result lives.
            unsafe { api.graph_instantiate(&mut handle, recorded, 0) }
        });
        if !recorded.is_null() {
            // SAFETY: made above, and not used any more.
            unsafe { api.graph_destroy(recorded) }?;
        }
        instantiated.map(|()| Graph { context: self.context.clone(), handle })
    }
}

impl Event {
    /// Reached from the start.
    pub fn new(context: &Arc<Context>) -> Result<Self> {
        context.make_current()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the result lives.
        unsafe { context.api().event_create(&mut handle, DISABLE_TIMING) }?;
        Ok(Self { context: context.clone(), handle })
    }

    /// The event is now the end of the stream's work so far.
    pub fn record(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both are alive.
        unsafe { self.context.api().event_record(self.handle, stream.handle) }
    }

    /// Waits until it is reached, and reports an error of the work before it.
    pub fn synchronize(&self) -> Result<()> {
        // SAFETY: the event is alive.
        unsafe { self.context.api().event_synchronize(self.handle) }
    }
}

impl Graph {
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both are alive, and the arguments in the graph are addresses of buffers that its owner keeps.
        unsafe { self.context.api().graph_launch(self.handle, stream.handle) }
    }
}

/// Ends the handle's life in its own context. Drivers finish the work that was enqueued.
macro_rules! destroyed_by {
    ($($type:ident: $method:ident),+) => {
        $(impl Drop for $type {
            fn drop(&mut self) {
                let api = self.context.api();
                // SAFETY: made once, and not used after this.
                let destroyed = self.context.make_current().and_then(|()| unsafe { api.$method(self.handle) });
                if let Err(error) = destroyed {
                    tracing::debug!("{error}");
                }
            }
        })+
    };
}

destroyed_by!(Stream: stream_destroy, Event: event_destroy, Graph: graph_exec_destroy);
