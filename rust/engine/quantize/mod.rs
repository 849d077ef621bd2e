//! Making quantized weights from numbers.

pub mod round;
