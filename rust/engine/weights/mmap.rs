//! Files as memory.
