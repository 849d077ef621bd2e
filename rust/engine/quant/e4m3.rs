//! Floats of eight bits: sign, four bits of exponent, three of mantissa, no infinity.
//! Source: Micikevicius et al. 2022, FP8 Formats for Deep Learning.

const SIGN: u8 = 0x80;
const NAN: u8 = 0x7f;
/// 448.
const GREATEST: u32 = 0x7e;

/// Bits of a float32's mantissa that are rounded away.
const DROPPED: u32 = 23 - 3;
/// Between the biases of the exponents, in units of the code's exponent.
const REBIAS: u32 = (127 - 7) << 3;
/// 2^-6; smaller numbers are multiples of 2^-9.
const LEAST_NORMAL: f32 = 0.015_625;

/// To the nearest, ties to even; greater sizes than 448 become 448.
pub fn encode(x: f32) -> u8 {
    let sign = (x.to_bits() >> 24) as u8 & SIGN;
    sign | match x.abs() {
        size if size.is_nan() => NAN,
        size if size < LEAST_NORMAL => subnormal(size),
        size => normal(size.to_bits()),
    }
}

fn normal(bits: u32) -> u8 {
    let half = (1 << (DROPPED - 1)) - 1 + (bits >> DROPPED & 1);
    (((bits + half) >> DROPPED) - REBIAS).min(GREATEST) as u8
}

fn subnormal(size: f32) -> u8 {
    // Floats of this size are multiples of 2^-9; eight of them are the least normal number.
    const MAGIC: f32 = 16_384.0;
    ((size + MAGIC).to_bits() - MAGIC.to_bits()) as u8
}

pub fn decode(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let size = match code & !SIGN {
        NAN => f32::NAN,
        0..8 => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code & SIGN == 0 { size } else { -size }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_are_those_of_the_format() {
        let values = [(0x00, 0.0), (0x01, 2f32.powi(-9)), (0x07, 7.0 / 512.0), (0x08, LEAST_NORMAL), (0x38, 1.0)];
        let more = [(0x3f, 1.875), (0x40, 2.0), (0x7e, 448.0), (0xb8, -1.0), (0xfe, -448.0)];
        for (code, value) in values.into_iter().chain(more) {
            assert_eq!(decode(code), value, "{code:#x}");
        }
        assert!(decode(0x7f).is_nan() && decode(0xff).is_nan());
    }

    #[test]
    fn every_value_comes_back() {
        for code in (0..=255).filter(|code| code & !SIGN != NAN) {
            assert_eq!(encode(decode(code)), code);
        }
        assert_eq!(encode(f32::NAN) & !SIGN, NAN);
    }

    #[test]
    fn numbers_between_go_to_the_nearest_and_ties_to_even() {
        for code in 0..0x7e {
            let (low, high) = (decode(code), decode(code + 1));
            let middle = low + (high - low) / 2.0;
            assert_eq!(encode(middle), code + (code & 1));
            assert_eq!(encode(middle.next_down()), code);
            assert_eq!(encode(-middle.next_up()), SIGN | (code + 1));
        }
        for beyond in [449.0, 464.0, 465.0, 1e30, f32::INFINITY] {
            assert_eq!(encode(beyond), 0x7e);
        }
    }
}
