//! The scheduler and the KV cache: whatever company, chunking, caching or preemption, the answer is the same.

mod properties;
mod reference;
mod scenarios;
mod world;
