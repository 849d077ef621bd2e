//! What the decoder is computed with.
