//! GGUF's block types, made: what is decoded is near what was encoded, nearer than rounding to nearest brings it, and
//! nearest where columns are important.

use ferrule_engine::quant::{DType, dequantize};
use ferrule_engine::quantize::kquants::encode_row;
use half::f16;
use proptest::prelude::*;

const MADE: [DType; 8] =
    [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::Q4_K, DType::Q5_K, DType::Q6_K];
/// Whole blocks of every type.
const COLS: usize = 512;

fn encoded(dtype: DType, row: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(row.len()).unwrap()];
    encode_row(dtype, row, importance, &mut bytes);
    bytes
}

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    dequantize(dtype, bytes, &mut out);
    out
}

fn round_trip(dtype: DType, row: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    decoded(dtype, &encoded(dtype, row, importance))
}

fn weighted_error(row: &[f32], other: &[f32], weights: &[f32]) -> f64 {
    let squares = row.iter().zip(other).zip(weights).map(|((a, b), w)| f64::from(a - b).powi(2) * f64::from(*w));
    squares.sum()
}

fn half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// `x` as a code from `lo` to `hi` of a line.
fn on_line(x: f32, scale: f32, offset: f32, lo: f32, hi: f32) -> f32 {
    let code = if scale == 0.0 { 0.0 } else { ((x - offset) / scale).round().clamp(lo, hi) };
    code * scale + offset
}

/// The number farthest from zero.
fn extreme(row: &[f32]) -> f32 {
    row.iter().fold(0.0, |extreme: f32, &x| if x.abs() > extreme.abs() { x } else { extreme })
}

/// Scales that stretch each block's range over the codes, and codes rounded to nearest: what the formats were defined with.
fn nearest(dtype: DType, row: &[f32]) -> Vec<f32> {
    let block = |block: &[f32]| match dtype {
        DType::Q4_0 => signed(block, -8.0, 7.0),
        DType::Q5_0 => signed(block, -16.0, 15.0),
        DType::Q8_0 => signed(block, -127.0, 127.0),
        DType::Q4_1 => unsigned(block, 15.0),
        DType::Q5_1 => unsigned(block, 31.0),
        DType::Q4_K => with_minima(block, 15.0),
        DType::Q5_K => with_minima(block, 31.0),
        DType::Q6_K => with_scales(block),
        _ => unreachable!("{dtype} is not made"),
    };
    row.chunks(dtype.block_len()).flat_map(block).collect()
}

fn signed(block: &[f32], lo: f32, hi: f32) -> Vec<f32> {
    let scale = half(extreme(block) / lo);
    block.iter().map(|&x| on_line(x, scale, 0.0, lo, hi)).collect()
}

fn range(block: &[f32]) -> (f32, f32) {
    (block.iter().copied().fold(f32::MAX, f32::min), block.iter().copied().fold(f32::MIN, f32::max))
}

fn unsigned(block: &[f32], hi: f32) -> Vec<f32> {
    let (least, greatest) = range(block);
    let (scale, offset) = (half((greatest - least) / hi), half(least));
    block.iter().map(|&x| on_line(x, scale, offset, 0.0, hi)).collect()
}

fn with_minima(block: &[f32], hi: f32) -> Vec<f32> {
    let lines = block.chunks(32).map(|part| {
        let (least, greatest) = (range(part).0.min(0.0), range(part).1);
        ((greatest - least).max(0.0) / hi, -least)
    });
    let lines: Vec<(f32, f32)> = lines.collect();
    let d = half(lines.iter().fold(0.0, |most: f32, line| most.max(line.0)) / 63.0);
    let dmin = half(lines.iter().fold(0.0, |most: f32, line| most.max(line.1)) / 63.0);
    let parts = block.chunks(32).zip(lines).flat_map(|(part, (scale, min))| {
        let (scale, offset) = (on_line(scale, d, 0.0, 0.0, 63.0), -on_line(min, dmin, 0.0, 0.0, 63.0));
        part.iter().map(move |&x| on_line(x, scale, offset, 0.0, hi))
    });
    parts.collect()
}

fn with_scales(block: &[f32]) -> Vec<f32> {
    let scales: Vec<f32> = block.chunks(16).map(|part| extreme(part) / -32.0).collect();
    let d = half(extreme(&scales) / -128.0);
    let parts = block.chunks(16).zip(scales).flat_map(|(part, scale)| {
        let scale = on_line(scale, d, 0.0, -128.0, 127.0);
        part.iter().map(move |&x| on_line(x, scale, 0.0, -32.0, 31.0))
    });
    parts.collect()
}

fn made() -> impl Strategy<Value = DType> {
    prop::sample::select(&MADE[..])
}

/// Numbers of very different sizes, as outliers among weights are.
fn rows() -> impl Strategy<Value = Vec<f32>> {
    let number = (-1.0f32..1.0, 0.0f32..3.0).prop_map(|(x, size)| x * 10f32.powf(-size));
    (prop::collection::vec(number, COLS), 1e-2f32..1e3).prop_map(|(row, unit)| row.iter().map(|x| x * unit).collect())
}

fn weights() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((0.0f32..4.0).prop_map(|size| 10f32.powf(-size)), COLS)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_worse_than_rounding_to_nearest(dtype in made(), row in rows(), weights in weights()) {
        let same = [1.0; COLS].to_vec();
        for (importance, weights) in [(None, &same), (Some(&weights[..]), &weights)] {
            let ours = weighted_error(&row, &round_trip(dtype, &row, importance), weights);
            let plain = weighted_error(&row, &nearest(dtype, &row), weights);
            prop_assert!(ours <= plain * (1.0 + 1e-5), "{dtype}: {ours} and {plain}");
        }
    }

    #[test]
    fn importance_moves_errors_to_where_they_count_less(dtype in made(), row in rows(), weights in weights()) {
        let with = weighted_error(&row, &round_trip(dtype, &row, Some(&weights)), &weights);
        let without = weighted_error(&row, &round_trip(dtype, &row, None), &weights);
        prop_assert!(with < without, "{dtype}: {with} and {without}");
    }

    #[test]
    fn equal_importance_is_none(dtype in made(), row in rows(), weight in 1e-6f32..1e6) {
        let equal = encoded(dtype, &row, Some(&[weight; COLS]));
        prop_assert!(equal == encoded(dtype, &row, None));
    }

    /// What a block stands for is found again, where its codes reach the ends of their ranges.
    #[test]
    fn numbers_on_a_blocks_grid_stay(dtype in made(), bytes in prop::collection::vec(any::<u8>(), 210), d in 0.01f32..0.1) {
        let bytes = &mut bytes[..dtype.block_bytes()].to_vec();
        reach_the_ends(dtype, bytes, d);
        let numbers = decoded(dtype, bytes);
        prop_assert_eq!(round_trip(dtype, &numbers, None), numbers, "{}", dtype);
    }

    #[test]
    fn what_is_decoded_is_finite(dtype in made(), sizes in prop::collection::vec(-46i32..39, 16), signs in any::<u32>()) {
        let number = |j: usize| {
            let sign = if signs >> (j % 32) & 1 == 1 { -1.0 } else { 1.0 };
            (sign * 10f64.powi(sizes[j / 32]) * (1.0 + j as f64 / 100.0)) as f32
        };
        let row: Vec<f32> = (0..COLS).map(|j| number(j).clamp(f32::MIN, f32::MAX)).collect();
        prop_assert!(round_trip(dtype, &row, None).iter().all(|x| x.is_finite()));
        prop_assert!(round_trip(dtype, &row, Some(&[0.0; COLS])).iter().all(|x| x.is_finite()));
    }
}

/// Gives a block's float16 numbers values near `d`, and its codes and scales their least and greatest values somewhere.
fn reach_the_ends(dtype: DType, bytes: &mut [u8], d: f32) {
    let mut put = |at: usize, x: f32| bytes[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
    match dtype {
        DType::Q4_1 | DType::Q5_1 => [(0, d), (2, -3.0 * d)].map(|(at, x)| put(at, x)),
        DType::Q4_K | DType::Q5_K => [(0, d), (2, 1.3 * d)].map(|(at, x)| put(at, x)),
        DType::Q6_K => [(208, d), (208, d)].map(|(at, x)| put(at, x)),
        _ => [(0, d), (0, d)].map(|(at, x)| put(at, x)),
    };
    match dtype {
        // The first number has the least code, the second one the greatest; bits above four come before the nibbles.
        DType::Q4_0 | DType::Q4_1 => bytes[dtype.block_bytes() - 16..][..2].copy_from_slice(&[0x00, 0xff]),
        DType::Q5_0 | DType::Q5_1 => {
            let qs = dtype.block_bytes() - 16;
            bytes[qs..][..2].copy_from_slice(&[0x00, 0xff]);
            bytes[qs - 4] = bytes[qs - 4] & !3 | 2;
        }
        DType::Q8_0 => {
            bytes[2..].iter_mut().for_each(|q| *q = (*q as i8).max(-127) as u8);
            bytes[2] = 127;
        }
        DType::Q4_K | DType::Q5_K => {
            // Scale and minimum of sub-block 0 are 63; numbers 0 and 1 of every sub-block have the ends of the codes.
            bytes[4] |= 63;
            bytes[8] |= 63;
            let qs = dtype.block_bytes() - 128;
            (0..4).for_each(|pair| bytes[qs + 32 * pair..][..2].copy_from_slice(&[0x00, 0xff]));
            if dtype == DType::Q5_K {
                bytes[16..18].copy_from_slice(&[0x00, 0xff]);
            }
        }
        DType::Q6_K => {
            bytes[192] = 0x80;
            // The first number of every sub-block of 16 is -32, the second one 31.
            for at in (0..128).step_by(16) {
                bytes[at..at + 2].copy_from_slice(&[0x00, 0xff]);
            }
            for at in (128..192).step_by(16) {
                bytes[at..at + 2].copy_from_slice(&[0x00, 0xff]);
            }
        }
        _ => unreachable!("{dtype} is not made"),
    }
}

#[test]
fn zeros_stay_zeros() {
    for dtype in MADE {
        assert_eq!(round_trip(dtype, &[0.0; COLS], None), [0.0; COLS], "{dtype}");
    }
}
