//! A file block taken apart: codes, scales and minima in the form that panels hold.
//! Source: the block definitions of ggml; see `blocks.rs` for their layouts.

use half::f16;

use super::super::DType;
use super::super::blocks::{Block, BlockIq4Xs, BlockMxfp4};

/// One block of one row. The file's and the panel's block have the same columns and the same scales.
pub struct BlockParts {
    /// f16; bf16 for MXFP4.
    pub scale: [u8; 2],
    /// f16, or i16 where it is a zero point. Panels add their minima; k-quants subtract theirs, as all do zero points:
    /// these are negated.
    pub min: [u8; 2],
    pub sub_scales: [i8; 16],
    pub sub_mins: [i8; 16],
    pub codes: [u8; 256],
}

impl BlockParts {
    pub const fn new() -> Self {
        Self { scale: [0; 2], min: [0; 2], sub_scales: [0; 16], sub_mins: [0; 16], codes: [0; 256] }
    }

    /// Takes one file block apart. `block` is (block_bytes,); `dtype` is quantized.
    pub fn read(&mut self, dtype: DType, block: &[u8]) {
        match dtype {
            DType::Q4_0 => self.q4(block, false),
            DType::Q4_1 => self.q4(block, true),
            DType::Q5_0 => self.q5(block, false),
            DType::Q5_1 => self.q5(block, true),
            DType::Q8_0 => self.q8(block),
            DType::Q2_K => self.q2_k(block),
            DType::Q3_K => self.q3_k(block),
            DType::Q4_K => self.q4_k(block),
            DType::Q5_K => self.q5_k(block),
            DType::Q6_K => self.q6_k(block),
            DType::IQ4_NL => self.q4(block, false),
            DType::IQ4_XS => self.iq4_xs(block),
            DType::MXFP4 => self.mxfp4(block),
            DType::I4G32 | DType::I4G64 | DType::I4G128 => self.grouped(block, false),
            DType::U4G32 | DType::U4G64 | DType::U4G128 => self.grouped(block, true),
            DType::U8G32 => self.u8(block),
            DType::I8_ROW => self.i8_row(block),
            DType::F32 | DType::F16 | DType::BF16 | DType::F8_E4M3 => unreachable!("dense types have no blocks"),
        }
    }

    /// The header of the plain formats; returns what follows.
    fn header<'a>(&mut self, block: &'a [u8], min: bool) -> &'a [u8] {
        self.scale = [block[0], block[1]];
        if min {
            self.min = [block[2], block[3]];
        }
        &block[if min { 4 } else { 2 }..]
    }

    fn q4(&mut self, block: &[u8], min: bool) {
        let nibbles = self.header(block, min);
        split_nibbles(&nibbles[..16], &mut self.codes[..32]);
    }

    fn q5(&mut self, block: &[u8], min: bool) {
        let rest = self.header(block, min);
        let high = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]);
        split_nibbles(&rest[4..20], &mut self.codes[..32]);
        for (i, code) in self.codes[..32].iter_mut().enumerate() {
            *code |= (((high >> i) & 1) << 4) as u8;
        }
    }

    fn q8(&mut self, block: &[u8]) {
        let codes = self.header(block, false);
        for (code, &byte) in self.codes[..32].iter_mut().zip(codes) {
            *code = byte ^ 0x80;
        }
    }

    /// As Q8_0's: the scale is rounded to f16.
    fn i8_row(&mut self, block: &[u8]) {
        let (scale, codes) = block.split_at(4);
        self.scale = f16::from_f32(f32::from_le_bytes([scale[0], scale[1], scale[2], scale[3]])).to_le_bytes();
        for (code, &byte) in self.codes[..32].iter_mut().zip(codes) {
            *code = byte ^ 0x80;
        }
    }

    fn q2_k(&mut self, block: &[u8]) {
        let (scales, rest) = block.split_at(16);
        self.scale = [rest[64], rest[65]];
        self.min = [rest[66], rest[67] ^ 0x80];
        for (i, &byte) in scales.iter().enumerate() {
            self.sub_scales[i] = (byte & 15) as i8;
            self.sub_mins[i] = (byte >> 4) as i8;
        }
        self.two_bits(&rest[..64]);
    }

    fn q3_k(&mut self, block: &[u8]) {
        let (high, rest) = block.split_at(32);
        self.scale = [rest[76], rest[77]];
        self.two_bits(&rest[..64]);
        for (i, code) in self.codes.iter_mut().enumerate() {
            *code |= ((high[i % 32] >> (i / 32)) & 1) << 2;
        }
        let packed = &rest[64..76];
        for i in 0..16 {
            let low = (packed[i % 8] >> (4 * (i / 8))) & 15;
            let top = (packed[8 + i % 4] >> (2 * (i / 4))) & 3;
            self.sub_scales[i] = (low | top << 4) as i8 - 32;
        }
    }

    fn q4_k(&mut self, block: &[u8]) {
        let rest = self.header(block, true);
        self.min[1] ^= 0x80;
        self.six_bit_scales(&rest[..12]);
        self.nibbles_of_64(&rest[12..140]);
    }

    fn q5_k(&mut self, block: &[u8]) {
        let rest = self.header(block, true);
        self.min[1] ^= 0x80;
        self.six_bit_scales(&rest[..12]);
        self.nibbles_of_64(&rest[44..172]);
        let high = &rest[12..44];
        for (i, code) in self.codes.iter_mut().enumerate() {
            *code |= ((high[i % 32] >> (i / 32)) & 1) << 4;
        }
    }

    fn q6_k(&mut self, block: &[u8]) {
        self.scale = [block[208], block[209]];
        for (scale, &byte) in self.sub_scales.iter_mut().zip(&block[192..208]) {
            *scale = byte as i8;
        }
        for half in 0..2 {
            let low = &block[64 * half..][..64];
            let high = &block[128 + 32 * half..][..32];
            let codes = &mut self.codes[128 * half..][..128];
            for i in 0..64 {
                codes[i] = (low[i] & 15) | ((high[i % 32] >> (2 * (i / 32))) & 3) << 4;
                codes[64 + i] = (low[i] >> 4) | ((high[i % 32] >> (4 + 2 * (i / 32))) & 3) << 4;
            }
        }
    }

    fn iq4_xs(&mut self, block: &[u8]) {
        let [block] = BlockIq4Xs::view(block) else { unreachable!("one block") };
        self.scale = block.d.0;
        for (i, (qs, codes)) in block.qs.iter().zip(self.codes.chunks_exact_mut(32)).enumerate() {
            self.sub_scales[i] = block.scale(i);
            split_nibbles(qs, codes);
        }
    }

    fn mxfp4(&mut self, block: &[u8]) {
        self.scale = BlockMxfp4::scale(block[0]).to_le_bytes();
        split_nibbles(&block[1..], &mut self.codes[..32]);
    }

    /// Scale and zero point; returns what follows.
    fn scale_and_zero<'a>(&mut self, block: &'a [u8]) -> &'a [u8] {
        self.scale = [block[0], block[1]];
        self.min = (-i16::from(block[2])).to_le_bytes();
        &block[3..]
    }

    fn u8(&mut self, block: &[u8]) {
        let codes = self.scale_and_zero(block);
        self.codes[..32].copy_from_slice(codes);
    }

    /// Scale, zero point if there is one, and two columns a byte.
    fn grouped(&mut self, block: &[u8], zero: bool) {
        let bytes = if zero { self.scale_and_zero(block) } else { self.header(block, false) };
        for (&byte, codes) in bytes.iter().zip(self.codes.as_chunks_mut::<2>().0) {
            *codes = [byte & 15, byte >> 4];
        }
    }

    /// 64 bytes, 256 codes of two bits: bits 2 j of 32 bytes are 32 consecutive columns.
    fn two_bits(&mut self, bytes: &[u8]) {
        for (i, code) in self.codes.iter_mut().enumerate() {
            *code = (bytes[i / 128 * 32 + i % 32] >> (2 * (i / 32 % 4))) & 3;
        }
    }

    /// 128 bytes; each 32 of them hold 64 columns, low nibbles first.
    fn nibbles_of_64(&mut self, bytes: &[u8]) {
        for (bytes, codes) in bytes.chunks_exact(32).zip(self.codes.chunks_exact_mut(64)) {
            split_nibbles(bytes, codes);
        }
    }

    /// Eight scales and eight minima of six bits in 12 bytes.
    fn six_bit_scales(&mut self, packed: &[u8]) {
        for i in 0..4 {
            self.sub_scales[i] = (packed[i] & 63) as i8;
            self.sub_mins[i] = (packed[i + 4] & 63) as i8;
            self.sub_scales[i + 4] = ((packed[i + 8] & 15) | (packed[i] >> 6) << 4) as i8;
            self.sub_mins[i + 4] = ((packed[i + 8] >> 4) | (packed[i + 4] >> 6) << 4) as i8;
        }
    }
}

/// Low nibbles to the first half of `codes`, high ones to the second.
fn split_nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}
