//! One sequence of tokens on its way.
