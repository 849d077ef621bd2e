//! The server: HTTP dialects in front of engines.
//!
//! # The life of an HTTP request
//! 1. [`listen`] takes the connection; [`front_door`] gives the request an id and a [`visit::Visit`].
//! 2. A dialect's handler reads the body ([`body::Json`]) and translates it.
//! 3. [`app::App::model`] gives it the model: loaded, waited for, or refused.
//! 4. [`app::App::ask`] tokenizes, checks limits and submits. A [`meter::Meter`] sits in the engine's sink: figures,
//!    and what the request holds, are its business, whatever becomes of the client.
//! 5. Events go through [`events`] to an [`ask::Answer`]: whole ones are collected, streams are written by the
//!    dialect's [`body::Framer`]. A client that leaves drops the answer, which cancels the request.
//! 6. An [`error::ServeError`] from any of these gets its dialect's shape at the front door, on the way out.
//! 7. When the last byte is gone the visit is counted and logged.
//!
//! A dialect is one folder that translates and nothing else.

mod access_log;
mod admin;
mod anthropic;
mod app;
mod ask;
pub mod auth;
mod bedrock;
mod body;
mod dialect;
mod drain;
mod embed;
mod error;
mod events;
mod fields;
mod front_door;
mod listen;
mod live;
mod meter;
mod metrics;
mod models;
mod native;
mod ollama;
mod openai;
mod openapi;
mod pace;
mod page;
mod record;
mod rfc3339;
mod run;
mod stall;
mod timing;
mod tls;
mod trace;
mod turns;
mod unread;
mod visit;

pub use access_log::AccessLog;
pub use app::Limits;
pub use models::KeepAlive;
pub use openapi::document as openapi;
pub use run::{ServeConfig, serve};
pub use tls::TlsFiles;
