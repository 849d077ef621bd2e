//! The models of a server: loaded by name on first use, kept for a while, unloaded when room is needed.

mod catalog;
mod keep_alive;
mod load;
mod null;
mod registry;
mod room;
mod slot;

pub use catalog::{Catalog, Served, Source};
pub use keep_alive::KeepAlive;
pub use registry::{Registry, RegistryConfig, Resident};
pub use slot::Lease;
