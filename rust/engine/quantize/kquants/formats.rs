//! Encoders of GGUF's block types. What a block's bytes mean is said where they are decoded, in `quant::blocks`.

use super::group::{Levels, Line, Offset};
use super::scaled::Scaled;
use super::search::Form;
use super::super_block::{SuperBlock, SuperForm};
use crate::quant::blocks::{
    Block, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
};

/// A block type that numbers can be encoded to. `LEN` is `Block::DTYPE.block_len()`.
pub trait Encode<const LEN: usize>: Block {
    fn encode(block: &Scaled<LEN>) -> Self;
}

const SIGNED_4: Form = Form { levels: Levels::new(-8, 7), offset: Offset::None };
const SIGNED_5: Form = Form { levels: Levels::new(-16, 15), offset: Offset::None };
/// Without -128, so that every code has a negative: kernels of others rely on it.
const SIGNED_8: Form = Form { levels: Levels::new(-127, 127), offset: Offset::None };
const UNSIGNED_4: Form = Form { levels: Levels::new(0, 15), offset: Offset::Free };
const UNSIGNED_5: Form = Form { levels: Levels::new(0, 31), offset: Offset::Free };

const Q4_K: SuperForm<32, 8> = super_form(15);
const Q5_K: SuperForm<32, 8> = super_form(31);
const Q6_K: SuperForm<16, 16> = SuperForm {
    form: Form { levels: Levels::new(-32, 31), offset: Offset::None },
    least_scale: -128,
    greatest_scale: 127,
};

const fn super_form(greatest_code: i8) -> SuperForm<32, 8> {
    let form = Form { levels: Levels::new(0, greatest_code), offset: Offset::NotPositive };
    SuperForm { form, least_scale: 0, greatest_scale: 63 }
}

impl Encode<32> for BlockQ4_0 {
    fn encode(block: &Scaled<32>) -> Self {
        let line = line_of_32(block, SIGNED_4);
        let codes = block.group::<32>(0).codes(line, SIGNED_4.levels).map(|code| (code + 8) as u8);
        Self { d: block.half(line.scale), qs: nibbles(&codes) }
    }
}

impl Encode<32> for BlockQ4_1 {
    fn encode(block: &Scaled<32>) -> Self {
        let line = line_of_32(block, UNSIGNED_4);
        let codes = block.group::<32>(0).codes(line, UNSIGNED_4.levels).map(|code| code as u8);
        Self { d: block.half(line.scale), m: block.half(line.offset), qs: nibbles(&codes) }
    }
}

impl Encode<32> for BlockQ5_0 {
    fn encode(block: &Scaled<32>) -> Self {
        let line = line_of_32(block, SIGNED_5);
        let codes = block.group::<32>(0).codes(line, SIGNED_5.levels).map(|code| (code + 16) as u8);
        Self { d: block.half(line.scale), qh: fifth_bits(&codes), qs: nibbles(&codes) }
    }
}

impl Encode<32> for BlockQ5_1 {
    fn encode(block: &Scaled<32>) -> Self {
        let line = line_of_32(block, UNSIGNED_5);
        let codes = block.group::<32>(0).codes(line, UNSIGNED_5.levels).map(|code| code as u8);
        let (d, m) = (block.half(line.scale), block.half(line.offset));
        Self { d, m, qh: fifth_bits(&codes), qs: nibbles(&codes) }
    }
}

impl Encode<32> for BlockQ8_0 {
    fn encode(block: &Scaled<32>) -> Self {
        let line = line_of_32(block, SIGNED_8);
        Self { d: block.half(line.scale), qs: block.group::<32>(0).codes(line, SIGNED_8.levels) }
    }
}

impl Encode<256> for BlockQ4K {
    fn encode(block: &Scaled<256>) -> Self {
        let SuperBlock { d, dmin, scales, mins, codes } = Q4_K.encode(block);
        Self { d, dmin, scales: scales_and_mins(scales, mins), qs: nibbles_of_64(&codes) }
    }
}

impl Encode<256> for BlockQ5K {
    fn encode(block: &Scaled<256>) -> Self {
        let SuperBlock { d, dmin, scales, mins, codes } = Q5_K.encode(block);
        let mut qh = [0; 32];
        for (i, codes) in codes.iter().enumerate() {
            for (byte, code) in qh.iter_mut().zip(codes) {
                *byte |= (*code as u8 >> 4) << i;
            }
        }
        Self { d, dmin, scales: scales_and_mins(scales, mins), qh, qs: nibbles_of_64(&codes) }
    }
}

impl Encode<256> for BlockQ6K {
    fn encode(block: &Scaled<256>) -> Self {
        q6_k(Q6_K.encode(block))
    }
}

impl BlockQ6K {
    /// Rounded to nearest: hundreds of times faster.
    pub fn encode_nearest(block: &Scaled<256>) -> Self {
        q6_k(Q6_K.encode_nearest(block))
    }
}

fn q6_k(block: SuperBlock<16, 16>) -> BlockQ6K {
    let SuperBlock { d, scales, codes, .. } = block;
    let (mut ql, mut qh) = ([0; 128], [0; 64]);
    for (j, &code) in codes.as_flattened().iter().enumerate() {
        let (h, s, l) = (j / 128, j / 32 % 4, j % 32);
        let code = (code + 32) as u8;
        ql[64 * h + 32 * (s % 2) + l] |= (code & 15) << (4 * (s / 2));
        qh[32 * h + l] |= (code >> 4) << (2 * s);
    }
    BlockQ6K { ql, qh, scales, d }
}

/// The better of the line that was searched for and that of rounding to nearest, once float16 has rounded them.
fn line_of_32(block: &Scaled<32>, form: Form) -> Line {
    let group = block.group::<32>(0);
    let [searched, nearest] = [form.fit(group), form.nearest_line(group)].map(|line| block.rounded_line(line));
    match group.error(searched, form.levels) <= group.error(nearest, form.levels) {
        true => searched,
        false => nearest,
    }
}

fn nibbles(codes: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| codes[j] & 15 | codes[j + 16] << 4)
}

fn fifth_bits(codes: &[u8; 32]) -> [u8; 4] {
    let bits = codes.iter().enumerate().fold(0, |bits: u32, (j, &code)| bits | u32::from(code >> 4) << j);
    bits.to_le_bytes()
}

fn nibbles_of_64(codes: &[[i8; 32]; 8]) -> [u8; 128] {
    std::array::from_fn(|at| {
        let (pair, l) = (2 * (at / 32), at % 32);
        codes[pair][l] as u8 & 15 | (codes[pair + 1][l] as u8) << 4
    })
}

/// The inverse of `scale_and_min`.
fn scales_and_mins(scales: [i8; 8], mins: [i8; 8]) -> [u8; 12] {
    let (scales, mins) = (scales.map(|scale| scale as u8), mins.map(|min| min as u8));
    std::array::from_fn(|at| match at {
        0..4 => scales[at] | scales[at + 4] >> 4 << 6,
        4..8 => mins[at - 4] | mins[at] >> 4 << 6,
        _ => scales[at - 4] & 15 | mins[at - 4] << 4,
    })
}
