//! The scheduler and the KV cache: whatever company, chunking, caching or preemption, the answer is the same.

mod allocations;
mod properties;
mod reference;
mod scenarios;
mod world;
