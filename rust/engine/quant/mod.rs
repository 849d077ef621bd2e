//! Number formats of weights: what files hold, and the kernel-ready layout that they become at load.

pub(crate) mod blocks;
mod dtype;
pub(crate) mod e4m3;
mod packed;

pub use blocks::dequantize;
pub use dtype::DType;
pub(crate) use packed::{BlockParts, Region};
pub use packed::{BlockSpec, Format, LAYOUT_VERSION, Layout, PANEL_ROWS, PackedMatrix, WeightArena, format};
pub(crate) use packed::{F8_BYTES, F8_COLS, F8_SCALES, ROW_OFFSET, ROW_SCALES};
pub(crate) use packed::{code, fetch, group_scales, with_format};
