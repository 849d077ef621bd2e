//! GGUF's block formats: `#[repr(C)]` layouts and the reference decoders. Source: ggml's definitions.

use super::DType;

/// Decodes whole blocks: `bytes` is (out.len() / block_len * block_bytes). The specification of every format.
pub fn dequantize(_dtype: DType, _bytes: &[u8], _out: &mut [f32]) {
    todo!()
}
