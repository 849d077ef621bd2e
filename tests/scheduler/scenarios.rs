//! What must really happen, so that the properties are not true of nothing.
