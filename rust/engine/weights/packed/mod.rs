//! Kernel-ready weights, kept on disk so that the next start maps them instead of packing them again.
//!
//! A packed file holds the bytes of every [`crate::quant::PackedMatrix`] of one model:
//!
//! ```text
//! matrices ...            each at a multiple of 64 bytes
//! description             JSON: layout version, state of the source, the matrices' places, checksums
//! length     u64 | checksum of the description u64 | "FERRPACK"
//! ```
//!
//! It is written front to back in one pass, to a name of its own that becomes the final one when everything is on
//! the disk. Whoever opens it checks the description, and reads all matrices once to compare their checksums, which
//! takes about as long as computing one token. That finds truncation and whatever disks do to bytes; it is no
//! protection from somebody who may write to the folder. A file that fails is ignored and written anew.
//!
//! Files are made in the engine's own time: nothing waits for them but its end, and no failure is more than a
//! line in the log.

mod cache;
mod checksum;
mod file;
mod pending;
mod stamp;
#[cfg(test)]
mod tests;

pub use cache::PackedCache;
pub use file::PackedFile;
pub use pending::PendingWrite;
pub use stamp::SourceStamp;

use crate::quant::PackedMatrix;

/// A matrix with the name that the loader gives it.
#[derive(Debug)]
pub struct NamedMatrix {
    pub name: String,
    pub matrix: PackedMatrix,
}
