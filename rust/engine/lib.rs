//! Ferrule's engine: paged KV cache, continuous batching and quantized kernels for language models.
//!
//! # The life of a request
//! 1. A caller (command line, HTTP dialect, Python) builds a [`GenerateRequest`] on its own thread.
//! 2. [`EngineHandle::submit`] renders the chat template, tokenizes and checks limits: it becomes a
//!    [`request::Request`], or an [`Error`] that names the limit and the value.
//! 3. One bounded queue carries it, with its event sink, to the engine thread. Full: [`Error::Overloaded`].
//! 4. [`engine::Engine::step`]: drain → `schedule()` → `execute()` → `commit()` → `emit()`.
//!    * `schedule()` is pure and yields a [`sched::SchedulerOutput`], plain data.
//!    * `execute()` is the forward pass ([`runner::ModelRunner`]) and the sampling.
//!    * `commit()` advances `num_computed_tokens`, publishes full blocks to the prefix cache, and appends
//!      the tokens.
//!    * `emit()` turns tokens into text (stop strings, incomplete UTF-8), sends [`Event`]s, and frees what
//!      ended.
//!    * On a device that computes by itself ([`runner::DeviceRunner`]) a step is scheduled and launched before the tokens
//!      of the one before it are known: `commit()` has said that they will come, and they stay on the device.
//! 5. The sink answers `Continue` or `Break`; a receiver that is gone is the cancellation, and its
//!    blocks are free after the step.
//! 6. The caller frames the events.

mod admit;
mod answer;
pub mod backend;
mod choice;
pub mod config;
pub mod cuda;
pub mod engine;
pub mod error;
pub mod evaluate;
mod execute;
pub mod handle;
mod hash;
pub mod ids;
pub mod info;
mod intake;
mod isolate;
pub mod kernels;
pub mod kv;
mod load;
pub mod memory;
pub mod metrics;
pub mod model;
pub mod null;
pub mod output;
pub mod profile;
pub mod quant;
pub mod quantize;
pub mod request;
pub mod runner;
pub mod sample;
pub mod sched;
pub mod sequence;
pub mod snapshot;
mod stream;
pub mod text;
pub mod weights;

pub use config::EngineConfig;
pub use error::{Error, Result};
pub use handle::EngineHandle;
pub use ids::{BlockId, HostBlockId, RequestId, SequenceId, TokenId};
pub use info::ModelInfo;
pub use output::{Event, FinishReason, GenerateOutput};
pub use request::{ChatMessage, GenerateRequest, Prompt, SamplingParams};
pub use stream::{EventStream, PendingOutput};
