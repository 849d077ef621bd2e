//! GGUF's block types, made from float32: scales, minima and codes that minimize the squared error of a block's numbers,
//! each weighted with its column's importance.

mod file;
mod formats;
mod group;
pub mod mixture;
mod scaled;
mod search;
mod super_block;

pub use self::file::{Importance, Plan, copy_with};
use self::formats::Encode;
use self::scaled::Scaled;
use crate::quant::DType;
use crate::quant::blocks::{
    Block, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};

/// Encodes a row to `out`, `dtype.row_bytes(row.len())` bytes. `row` is finite; `importance` says for each column what a
/// squared error there counts (finite, not negative).
///
/// # Panics
/// For types that are not made, and for rows that are no whole blocks.
pub fn encode_row(dtype: DType, row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    assert_eq!(dtype.row_bytes(row.len()), Some(out.len()), "a row of {} as {dtype}", row.len());
    match dtype {
        DType::F32 => encode_plain(row, out, f32::to_le_bytes),
        DType::F16 => encode_plain(row, out, |x| half::f16::from_f32(x).to_le_bytes()),
        DType::Q4_0 => encode_blocks::<BlockQ4_0, 32>(row, importance, out),
        DType::Q4_1 => encode_blocks::<BlockQ4_1, 32>(row, importance, out),
        DType::Q5_0 => encode_blocks::<BlockQ5_0, 32>(row, importance, out),
        DType::Q5_1 => encode_blocks::<BlockQ5_1, 32>(row, importance, out),
        DType::Q8_0 => encode_blocks::<BlockQ8_0, 32>(row, importance, out),
        DType::Q4_K => encode_blocks::<BlockQ4K, 256>(row, importance, out),
        DType::Q5_K => encode_blocks::<BlockQ5K, 256>(row, importance, out),
        DType::Q6_K => encode_blocks::<BlockQ6K, 256>(row, importance, out),
        _ => panic!("{dtype} is not made"),
    }
}

/// Rounds a row to Q6_K's nearest codes, without a search.
pub fn round_row_q6_k(row: &[f32], out: &mut [u8]) {
    for (numbers, out) in row.as_chunks().0.iter().zip(out.chunks_exact_mut(size_of::<BlockQ6K>())) {
        out.copy_from_slice(BlockQ6K::encode_nearest(&Scaled::new(numbers, None)).bytes());
    }
}

fn encode_plain<const N: usize>(row: &[f32], out: &mut [u8], encode: impl Fn(f32) -> [u8; N]) {
    for (&x, out) in row.iter().zip(out.as_chunks_mut().0) {
        *out = encode(x);
    }
}

fn encode_blocks<B: Encode<LEN>, const LEN: usize>(row: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let numbers = row.as_chunks::<LEN>().0;
    let importance = importance.map(|importance| importance.as_chunks::<LEN>().0);
    for (i, out) in out.chunks_exact_mut(size_of::<B>()).enumerate() {
        let block = Scaled::new(&numbers[i], importance.map(|importance| &importance[i]));
        out.copy_from_slice(B::encode(&block).bytes());
    }
}
