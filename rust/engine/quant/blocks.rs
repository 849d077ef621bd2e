//! Block formats: `#[repr(C)]` layouts and the reference decoders. GGUF's follow ggml's definitions; those with
//! groups are what `weights::grouped` makes of other checkpoints' tensors.
//!
//! A block holds 32 numbers, or 256 in sub-blocks of 16 or 32 for the K types. All are little-endian and have
//! alignment 1, so that any bytes of the right length can be viewed as blocks.

use half::{bf16, f16};

use super::{DType, e4m3};

/// A float16 in a file.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Half(pub [u8; 2]);

impl Half {
    /// The nearest one that is finite.
    pub fn nearest(x: f32) -> Self {
        let most = f16::MAX.to_f32();
        Self(f16::from_f32(x.clamp(-most, most)).to_le_bytes())
    }

    pub fn to_f32(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }
}

/// A block layout and its decoder.
///
/// # Safety
/// The implementer is `repr(C)` of bytes only: alignment 1, no padding, any bit pattern valid.
pub unsafe trait Block: Copy {
    const DTYPE: DType;

    /// Decodes to `out` (block_len,).
    fn decode(&self, out: &mut [f32]);

    /// `bytes` as whole blocks.
    fn view(bytes: &[u8]) -> &[Self] {
        let size = size_of::<Self>();
        assert_eq!(bytes.len() % size, 0, "{} bytes are no whole blocks of {}", bytes.len(), Self::DTYPE);
        // SAFETY: the trait promises alignment 1 and no invalid patterns, and the length is whole blocks.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size) }
    }

    /// As it lies in a file.
    fn bytes(&self) -> &[u8] {
        // SAFETY: the trait promises that the implementer is bytes without padding, and they are `self`'s.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// Declares `Block` for a struct of bytes, with its size checked against the type's.
macro_rules! block {
    ($name:ty, $dtype:ident, |$block:ident, $out:ident| $decode:expr) => {
        const _: () = assert!(size_of::<$name>() == DType::$dtype.block_bytes() && align_of::<$name>() == 1);
        // SAFETY: repr(C) with fields of u8, i8 and Half only, all of alignment 1.
        unsafe impl Block for $name {
            const DTYPE: DType = DType::$dtype;
            fn decode(&self, $out: &mut [f32]) {
                let $block = self;
                $decode
            }
        }
    };
}

/// `qs[j]`: number j in the low nibble, number j + 16 in the high one. x = d (q - 8).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ4_0 {
    pub d: Half,
    pub qs: [u8; 16],
}

block!(BlockQ4_0, Q4_0, |b, out| {
    let d = b.d.to_f32();
    for j in 0..32 {
        out[j] = (i32::from(nibble(&b.qs, j)) - 8) as f32 * d;
    }
});

/// As Q4_0, with a minimum. x = d q + m.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ4_1 {
    pub d: Half,
    pub m: Half,
    pub qs: [u8; 16],
}

block!(BlockQ4_1, Q4_1, |b, out| {
    let (d, m) = (b.d.to_f32(), b.m.to_f32());
    for j in 0..32 {
        out[j] = f32::from(nibble(&b.qs, j)) * d + m;
    }
});

/// As Q4_0, and bit j of the little-endian `qh` is bit 4 of number j. x = d (q - 16).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ5_0 {
    pub d: Half,
    pub qh: [u8; 4],
    pub qs: [u8; 16],
}

block!(BlockQ5_0, Q5_0, |b, out| {
    let d = b.d.to_f32();
    for j in 0..32 {
        out[j] = (i32::from(five_bits(&b.qh, &b.qs, j)) - 16) as f32 * d;
    }
});

/// As Q5_0, with a minimum. x = d q + m.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ5_1 {
    pub d: Half,
    pub m: Half,
    pub qh: [u8; 4],
    pub qs: [u8; 16],
}

block!(BlockQ5_1, Q5_1, |b, out| {
    let (d, m) = (b.d.to_f32(), b.m.to_f32());
    for j in 0..32 {
        out[j] = f32::from(five_bits(&b.qh, &b.qs, j)) * d + m;
    }
});

/// x = d q.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ8_0 {
    pub d: Half,
    pub qs: [i8; 32],
}

block!(BlockQ8_0, Q8_0, |b, out| {
    let d = b.d.to_f32();
    for j in 0..32 {
        out[j] = f32::from(b.qs[j]) * d;
    }
});

/// 16 sub-blocks of 16: `scales[i]` has the scale in its low nibble, the minimum in its high one.
/// Number 128 h + 32 s + l is bits 2 s, 2 s + 1 of `qs[32 h + l]`. x = (d scale) q - (dmin min).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ2K {
    pub scales: [u8; 16],
    pub qs: [u8; 64],
    pub d: Half,
    pub dmin: Half,
}

block!(BlockQ2K, Q2_K, |b, out| {
    let (d, dmin) = (b.d.to_f32(), b.dmin.to_f32());
    for j in 0..256 {
        let scale = b.scales[j / 16];
        let (d, m) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
        out[j] = d * f32::from(two_bits(&b.qs, j)) - m;
    }
});

/// 16 sub-blocks of 16 with 6-bit scales (see `scales`). Low bits as in Q2_K; bit j / 32 of `hmask[j % 32]` is
/// bit 2 of number j. x = (d (scale - 32)) (q - 4).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ3K {
    pub hmask: [u8; 32],
    pub qs: [u8; 64],
    pub scales: [u8; 12],
    pub d: Half,
}

impl BlockQ3K {
    /// Scale i, less 32: four low bits in a nibble of bytes 0 to 7, two high bits in bytes 8 to 11.
    pub fn scales(&self) -> [i8; 16] {
        std::array::from_fn(|i| {
            let low = self.scales[i % 8] >> (4 * (i / 8)) & 15;
            let high = self.scales[8 + i % 4] >> (2 * (i / 4)) & 3;
            (low | high << 4) as i8 - 32
        })
    }
}

block!(BlockQ3K, Q3_K, |b, out| {
    let (d, scales) = (b.d.to_f32(), b.scales());
    for j in 0..256 {
        let high = b.hmask[j % 32] >> (j / 32) & 1;
        let q = i32::from(two_bits(&b.qs, j) | high << 2) - 4;
        out[j] = d * f32::from(scales[j / 16]) * q as f32;
    }
});

/// 8 sub-blocks of 32 with 6-bit scales and minima (see `scale_and_min`). Number 64 g + l is the low nibble of
/// `qs[32 g + l]`, number 64 g + 32 + l the high one. x = (d scale) q - (dmin min).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ4K {
    pub d: Half,
    pub dmin: Half,
    pub scales: [u8; 12],
    pub qs: [u8; 128],
}

block!(BlockQ4K, Q4_K, |b, out| {
    let (d, dmin) = (b.d.to_f32(), b.dmin.to_f32());
    for j in 0..256 {
        let (scale, min) = scale_and_min(&b.scales, j / 32);
        out[j] = d * f32::from(scale) * f32::from(nibble_of_64(&b.qs, j)) - dmin * f32::from(min);
    }
});

/// As Q4_K, and bit j / 32 of `qh[j % 32]` is bit 4 of number j.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ5K {
    pub d: Half,
    pub dmin: Half,
    pub scales: [u8; 12],
    pub qh: [u8; 32],
    pub qs: [u8; 128],
}

block!(BlockQ5K, Q5_K, |b, out| {
    let (d, dmin) = (b.d.to_f32(), b.dmin.to_f32());
    for j in 0..256 {
        let (scale, min) = scale_and_min(&b.scales, j / 32);
        let q = nibble_of_64(&b.qs, j) | (b.qh[j % 32] >> (j / 32) & 1) << 4;
        out[j] = d * f32::from(scale) * f32::from(q) - dmin * f32::from(min);
    }
});

/// 16 sub-blocks of 16 with signed scales. In each half h of 128, number 32 s + l has its low nibble in
/// `ql[64 h + 32 (s % 2) + l]` (high nibble of the byte for s above 1) and bits 2 s, 2 s + 1 of `qh[32 h + l]` above it.
/// x = (d scale) (q - 32).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockQ6K {
    pub ql: [u8; 128],
    pub qh: [u8; 64],
    pub scales: [i8; 16],
    pub d: Half,
}

block!(BlockQ6K, Q6_K, |b, out| {
    let d = b.d.to_f32();
    for j in 0..256 {
        let (h, s, l) = (j / 128, j / 32 % 4, j % 32);
        let low = b.ql[64 * h + 32 * (s % 2) + l] >> (4 * (s / 2)) & 15;
        let high = b.qh[32 * h + l] >> (2 * s) & 3;
        out[j] = d * f32::from(b.scales[j / 16]) * (i32::from(low | high << 4) - 32) as f32;
    }
});

/// What the nibbles of the IQ4 types stand for.
pub const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// What the nibbles of MXFP4 stand for: twice the numbers of E2M1.
pub const MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// Nibbles as in Q4_0. x = d value(q).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockIq4Nl {
    pub d: Half,
    pub qs: [u8; 16],
}

block!(BlockIq4Nl, IQ4_NL, |b, out| {
    let d = b.d.to_f32();
    for j in 0..32 {
        out[j] = d * f32::from(IQ4_VALUES[usize::from(nibble(&b.qs, j))]);
    }
});

/// 8 sub-blocks of 32, each as in IQ4_NL, with 6-bit scales (see `scale`). x = (d (scale - 32)) value(q).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockIq4Xs {
    pub d: Half,
    pub scales_h: [u8; 2],
    pub scales_l: [u8; 4],
    pub qs: [[u8; 16]; 8],
}

impl BlockIq4Xs {
    /// Scale i, less 32: four low bits in nibble i of `scales_l`, two high bits in bits 2 i, 2 i + 1 of `scales_h`.
    pub fn scale(&self, i: usize) -> i8 {
        let low = self.scales_l[i / 2] >> (4 * (i % 2)) & 15;
        let high = self.scales_h[i / 4] >> (2 * (i % 4)) & 3;
        (low | high << 4) as i8 - 32
    }
}

block!(BlockIq4Xs, IQ4_XS, |b, out| {
    let d = b.d.to_f32();
    for j in 0..256 {
        let value = IQ4_VALUES[usize::from(nibble(&b.qs[j / 32], j % 32))];
        out[j] = d * f32::from(b.scale(j / 32)) * f32::from(value);
    }
});

/// Nibbles as in Q4_0, with a power of two as their scale. x = 2^(e - 128) value(q).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockMxfp4 {
    pub e: u8,
    pub qs: [u8; 16],
}

impl BlockMxfp4 {
    /// 2^(e - 128), half of what E8M0 says, as the upper half of a float32: the two smallest are subnormal.
    pub fn scale(e: u8) -> bf16 {
        bf16::from_bits(match e {
            0 | 1 => 0x20 << e,
            _ => u16::from(e - 1) << 7,
        })
    }
}

block!(BlockMxfp4, MXFP4, |b, out| {
    let d = Self::scale(b.e).to_f32();
    for j in 0..32 {
        out[j] = d * f32::from(MXFP4_VALUES[usize::from(nibble(&b.qs, j))]);
    }
});

fn nibble(qs: &[u8; 16], j: usize) -> u8 {
    qs[j % 16] >> (4 * (j / 16)) & 15
}

fn five_bits(qh: &[u8; 4], qs: &[u8; 16], j: usize) -> u8 {
    nibble(qs, j) | (qh[j / 8] >> (j % 8) & 1) << 4
}

fn two_bits(qs: &[u8; 64], j: usize) -> u8 {
    qs[32 * (j / 128) + j % 32] >> (2 * (j / 32 % 4)) & 3
}

fn nibble_of_64(qs: &[u8; 128], j: usize) -> u8 {
    qs[32 * (j / 64) + j % 32] >> (4 * (j / 32 % 2)) & 15
}

/// Scale and minimum of sub-block `i` of Q4_K and Q5_K, 6 bits each:
///
/// ```text
/// byte 0..4:  scale[i]     in bits 0..6, top bits of scale[i + 4] in bits 6..8
/// byte 4..8:  min[i]       in bits 0..6, top bits of min[i + 4]   in bits 6..8
/// byte 8..12: scale[i + 4] in bits 0..4, min[i + 4]               in bits 4..8
/// ```
pub fn scale_and_min(packed: &[u8; 12], i: usize) -> (u8, u8) {
    match i {
        0..4 => (packed[i] & 63, packed[i + 4] & 63),
        _ => {
            let low = packed[i + 4];
            (low & 15 | packed[i - 4] >> 6 << 4, low >> 4 | packed[i] >> 6 << 4)
        }
    }
}

/// Four bits in groups: two columns a byte, the first one in the low nibble. x = d (q - 8).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockI4<const BYTES: usize> {
    pub d: Half,
    pub qs: [u8; BYTES],
}

/// The same with a zero point. x = d q + d (-z).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockU4<const BYTES: usize> {
    pub d: Half,
    pub z: u8,
    pub qs: [u8; BYTES],
}

/// `decode` of every code of a group.
fn decode_nibbles(qs: &[u8], out: &mut [f32], decode: impl Fn(f32) -> f32) {
    for (&byte, out) in qs.iter().zip(out.as_chunks_mut::<2>().0) {
        *out = [byte & 15, byte >> 4].map(|q| decode(f32::from(q)));
    }
}

fn decode_i4(d: Half, qs: &[u8], out: &mut [f32]) {
    let d = d.to_f32();
    decode_nibbles(qs, out, |q| d * (q - 8.0));
}

fn decode_u4(d: Half, zero: u8, qs: &[u8], out: &mut [f32]) {
    let (d, negated) = (d.to_f32(), f32::from(-i16::from(zero)));
    decode_nibbles(qs, out, |q| d * q + d * negated);
}

block!(BlockI4<16>, I4G32, |b, out| decode_i4(b.d, &b.qs, out));
block!(BlockI4<32>, I4G64, |b, out| decode_i4(b.d, &b.qs, out));
block!(BlockI4<64>, I4G128, |b, out| decode_i4(b.d, &b.qs, out));
block!(BlockU4<16>, U4G32, |b, out| decode_u4(b.d, b.z, &b.qs, out));
block!(BlockU4<32>, U4G64, |b, out| decode_u4(b.d, b.z, &b.qs, out));
block!(BlockU4<64>, U4G128, |b, out| decode_u4(b.d, b.z, &b.qs, out));

/// Eight bits with a zero point. x = d q + d (-z).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockU8 {
    pub d: Half,
    pub z: u8,
    pub qs: [u8; 32],
}

block!(BlockU8, U8G32, |b, out| {
    let (d, negated) = (b.d.to_f32(), f32::from(-i16::from(b.z)));
    for j in 0..32 {
        out[j] = d * f32::from(b.qs[j]) + d * negated;
    }
});

/// Eight bits; all blocks of a row have the same scale. x = d q.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockI8Row {
    pub d: [u8; 4],
    pub qs: [i8; 32],
}

block!(BlockI8Row, I8_ROW, |b, out| {
    let d = f32::from_le_bytes(b.d);
    for j in 0..32 {
        out[j] = d * f32::from(b.qs[j]);
    }
});

/// Floats of eight bits. x = d value(q).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct BlockF8 {
    pub d: [u8; 4],
    pub qs: [u8; 32],
}

block!(BlockF8, F8_E4M3, |b, out| {
    let d = f32::from_le_bytes(b.d);
    for j in 0..32 {
        out[j] = d * e4m3::decode(b.qs[j]);
    }
});

/// Decodes whole blocks: `bytes` is (out.len() / block_len * block_bytes). The specification of every format.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(dtype.row_bytes(out.len()), Some(bytes.len()), "{} numbers of {dtype}", out.len());
    match dtype {
        DType::F32 => decode_plain(bytes, out, f32::from_le_bytes),
        DType::F16 => decode_plain(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
        DType::BF16 => decode_plain(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        DType::Q4_0 => decode_blocks::<BlockQ4_0>(bytes, out),
        DType::Q4_1 => decode_blocks::<BlockQ4_1>(bytes, out),
        DType::Q5_0 => decode_blocks::<BlockQ5_0>(bytes, out),
        DType::Q5_1 => decode_blocks::<BlockQ5_1>(bytes, out),
        DType::Q8_0 => decode_blocks::<BlockQ8_0>(bytes, out),
        DType::Q2_K => decode_blocks::<BlockQ2K>(bytes, out),
        DType::Q3_K => decode_blocks::<BlockQ3K>(bytes, out),
        DType::Q4_K => decode_blocks::<BlockQ4K>(bytes, out),
        DType::Q5_K => decode_blocks::<BlockQ5K>(bytes, out),
        DType::Q6_K => decode_blocks::<BlockQ6K>(bytes, out),
        DType::IQ4_NL => decode_blocks::<BlockIq4Nl>(bytes, out),
        DType::IQ4_XS => decode_blocks::<BlockIq4Xs>(bytes, out),
        DType::MXFP4 => decode_blocks::<BlockMxfp4>(bytes, out),
        DType::I4G32 => decode_blocks::<BlockI4<16>>(bytes, out),
        DType::I4G64 => decode_blocks::<BlockI4<32>>(bytes, out),
        DType::I4G128 => decode_blocks::<BlockI4<64>>(bytes, out),
        DType::U4G32 => decode_blocks::<BlockU4<16>>(bytes, out),
        DType::U4G64 => decode_blocks::<BlockU4<32>>(bytes, out),
        DType::U4G128 => decode_blocks::<BlockU4<64>>(bytes, out),
        DType::U8G32 => decode_blocks::<BlockU8>(bytes, out),
        DType::I8_ROW => decode_blocks::<BlockI8Row>(bytes, out),
        DType::F8_E4M3 => decode_blocks::<BlockF8>(bytes, out),
    }
}

fn decode_plain<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    for (number, &chunk) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *number = decode(chunk);
    }
}

fn decode_blocks<B: Block>(bytes: &[u8], out: &mut [f32]) {
    for (block, out) in B::view(bytes).iter().zip(out.chunks_exact_mut(B::DTYPE.block_len())) {
        block.decode(out);
    }
}
