//! The engine: one loop around scheduler, runner and sampler.
