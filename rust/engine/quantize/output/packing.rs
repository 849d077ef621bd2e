//! Quantized matrices as the tensors of other libraries' checkpoints: the inverse of `weights::grouped`, where the
//! layouts are drawn.

use super::tensor::OutTensor;
use crate::quantize::round::{Grouped, Step};
use crate::quantize::scheme::Layout;

/// Where AutoAWQ puts the codes of rows 0 .. 8 of a word: in nibbles.
const AWQ_NIBBLE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// The tensors of the matrix `stem`.
pub fn tensors(stem: &str, matrix: &Grouped, layout: Layout) -> Vec<OutTensor> {
    match layout {
        Layout::Gptq => gptq(stem, matrix),
        Layout::Awq => awq(stem, matrix),
        Layout::Packed => packed(stem, matrix),
        Layout::Plain => plain(stem, matrix),
    }
}

fn gptq(stem: &str, m: &Grouped) -> Vec<OutTensor> {
    let bits = m.codes_of.bits as usize;
    let per_word = 32 / bits;
    let column =
        |word: usize, row: usize| join(bits, (0..per_word).map(|i| m.codes[row * m.cols + word * per_word + i]));
    // Version 1 stores zero points less one.
    let zero = |group: usize, row: usize| m.step(row, group).zero.wrapping_sub(1);
    let zeros = |group: usize, word: usize| join(bits, (0..per_word).map(|i| zero(group, word * per_word + i)));
    let groups: Vec<u32> = (0..m.cols).map(|col| (col / m.group) as u32).collect();
    vec![
        words(stem, "qweight", [m.cols / per_word, m.rows], column),
        words(stem, "qzeros", [m.groups(), m.rows / per_word], zeros),
        scales(stem, "scales", [m.groups(), m.rows], |group, row| m.step(row, group)),
        OutTensor::words(format!("{stem}.g_idx"), vec![m.cols], &groups),
    ]
}

fn awq(stem: &str, m: &Grouped) -> Vec<OutTensor> {
    let interleaved = |code: &dyn Fn(usize) -> u8| {
        AWQ_NIBBLE.iter().enumerate().fold(0, |word, (i, nibble)| word | u32::from(code(i)) << (4 * nibble))
    };
    let codes = |col: usize, word: usize| interleaved(&|i| m.codes[(word * 8 + i) * m.cols + col]);
    let zeros = |group: usize, word: usize| interleaved(&|i| m.step(word * 8 + i, group).zero);
    vec![
        words(stem, "qweight", [m.cols, m.rows / 8], codes),
        words(stem, "qzeros", [m.groups(), m.rows / 8], zeros),
        scales(stem, "scales", [m.groups(), m.rows], |group, row| m.step(row, group)),
    ]
}

fn packed(stem: &str, m: &Grouped) -> Vec<OutTensor> {
    let bits = m.codes_of.bits as usize;
    let per_word = 32 / bits;
    let row = |row: usize, word: usize| join(bits, (0..per_word).map(|i| m.codes[row * m.cols + word * per_word + i]));
    let shape = [m.rows, m.cols].iter().flat_map(|&n| (n as i64).to_le_bytes()).collect();
    vec![
        words(stem, "weight_packed", [m.rows, m.cols / per_word], row),
        scales(stem, "weight_scale", [m.rows, m.groups()], |row, group| m.step(row, group)),
        OutTensor { name: format!("{stem}.weight_shape"), dtype: "I64".into(), shape: vec![2], bytes: shape },
    ]
}

fn plain(stem: &str, m: &Grouped) -> Vec<OutTensor> {
    let bytes = m.codes.iter().map(|code| code.wrapping_sub(128)).collect();
    vec![
        OutTensor { name: format!("{stem}.weight"), dtype: "I8".into(), shape: vec![m.rows, m.cols], bytes },
        scales(stem, "weight_scale", [m.rows, m.groups()], |row, group| m.step(row, group)),
    ]
}

/// Codes side by side, the first one lowest.
fn join(bits: usize, codes: impl Iterator<Item = u8>) -> u32 {
    let mask = (1u32 << bits) - 1;
    codes.enumerate().fold(0, |word, (i, code)| word | (u32::from(code) & mask) << (bits * i))
}

fn words(stem: &str, part: &str, [rows, cols]: [usize; 2], word: impl Fn(usize, usize) -> u32) -> OutTensor {
    let words: Vec<u32> =
        (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))).map(|(r, c)| word(r, c)).collect();
    OutTensor::words(format!("{stem}.{part}"), vec![rows, cols], &words)
}

fn scales(stem: &str, part: &str, [rows, cols]: [usize; 2], step: impl Fn(usize, usize) -> Step) -> OutTensor {
    let steps = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))).map(|(r, c)| step(r, c));
    let bytes = steps.flat_map(|step| step.scale.to_le_bytes()).collect();
    OutTensor { name: format!("{stem}.{part}"), dtype: "F16".into(), shape: vec![rows, cols], bytes }
}
