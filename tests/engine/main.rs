//! The engine on the null model, whose tokens change with any mistake in paging, scheduling or sampling.

mod admission;
mod ahead;
mod endings;
mod equal;
mod parameters;
mod watching;
mod world;
