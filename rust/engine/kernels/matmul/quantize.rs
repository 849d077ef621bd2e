//! Rows of activations as int8.

use std::ops::Range;

use crate::kernels::Cells;
use crate::quant::{Layout, PackedMatrix, ROW_OFFSET};

/// Columns that share a scale.
pub const GROUP: usize = 32;

/// The same where products have no other scale to apply before a row of weights ends.
pub const WIDE_GROUP: usize = 2 * GROUP;

/// Rows of activations as int8 in groups of 32: x ≈ q * scale of the group. Wide ones have two groups share their scale.
#[derive(Debug, Default)]
pub struct QuantizedRows {
    rows: usize,
    cols: usize,
    /// (rows, code_stride), in -127..=127.
    codes: Cells<i8>,
    /// (rows, groups): lanes that write neighbouring rows would else share cache lines.
    scales: Cells<f32>,
    /// Sums of codes, negated: per group of 32 (rows, groups), and per half group (rows, 2 groups).
    neg_sums: [Cells<i32>; 2],
    /// The same sums times their scale, not negated: what weights' minima are multiplied with.
    scaled_sums: [Cells<f32>; 2],
    /// (rows, wide groups), of wide rows: what sums of products with `Layout::I8Row`'s codes start from, since these have
    /// ROW_OFFSET more than they stand for.
    wide_starts: Cells<i32>,
    is_wide: bool,
}

impl QuantizedRows {
    /// Columns that share a scale.
    pub const GROUP: usize = GROUP;

    /// Such that two groups share their scale: what `Layout::I8Row` takes, and all others too.
    pub fn wide() -> Self {
        Self { is_wide: true, ..Self::default() }
    }

    /// Columns that share a scale.
    pub fn group(&self) -> usize {
        if self.is_wide { WIDE_GROUP } else { GROUP }
    }

    /// Makes room for (rows, cols); keeps its memory when it has enough. The contents are unspecified.
    pub fn resize(&mut self, rows: usize, cols: usize) {
        (self.rows, self.cols) = (rows, cols);
        self.codes.reserve(rows * self.code_stride());
        self.scales.reserve(rows * self.groups());
        self.wide_starts.reserve(rows * self.wide_groups());
        for (i, per_group) in [1, 2].into_iter().enumerate() {
            self.neg_sums[i].reserve(rows * per_group * self.groups());
            self.scaled_sums[i].reserve(rows * per_group * self.groups());
        }
    }

    /// These rows are there, in groups that products with `w` take.
    pub(super) fn check(&self, w: &PackedMatrix, rows: &Range<usize>) {
        assert!(self.cols == w.cols(), "{} activations for {} columns", self.cols, w.cols());
        assert!(rows.end <= self.rows, "row {} of {}", rows.end, self.rows);
        assert!(self.is_wide || w.layout() != Layout::I8Row, "rows of one scale take wide groups");
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    fn groups(&self) -> usize {
        self.cols.div_ceil(GROUP)
    }

    fn wide_groups(&self) -> usize {
        self.cols.div_ceil(WIDE_GROUP)
    }

    /// An odd number of cache lines, so that the rows of a tile fall into different cache sets.
    fn code_stride(&self) -> usize {
        let lines = self.cols.next_multiple_of(GROUP).div_ceil(64);
        64 * (lines | 1)
    }

    /// The groups of `cols` columns of a row, from `first_col` on.
    #[inline]
    pub(super) fn part(&self, row: usize, first_col: usize, cols: usize) -> RowMut {
        let index = row * self.groups() + first_col / GROUP;
        RowMut {
            groups: cols.div_ceil(GROUP),
            codes: self.codes.at(row * self.code_stride() + first_col),
            scales: self.scales.at(index),
            neg_sums: [self.neg_sums[0].at(index), self.neg_sums[1].at(2 * index)],
            scaled_sums: [self.scaled_sums[0].at(index), self.scaled_sums[1].at(2 * index)],
            wide_starts: self.wide_starts.at(row * self.wide_groups() + first_col / WIDE_GROUP),
        }
    }

    /// Rows from `row` on and columns from `col` on, for weights in groups of `group` (16 or 32).
    pub(super) fn view(&self, row: usize, col: usize, group: usize) -> Int8Rows {
        let halves = usize::from(group == GROUP / 2);
        let sum_stride = self.groups() << halves;
        let sum = row * sum_stride + col / group;
        Int8Rows {
            codes: self.codes.at(row * self.code_stride() + col),
            code_stride: self.code_stride(),
            scales: self.scales.at(row * self.groups() + col / GROUP),
            scale_stride: self.groups(),
            neg_sums: self.neg_sums[halves].at(sum),
            scaled_sums: self.scaled_sums[halves].at(sum),
            sum_stride,
            wide_starts: self.wide_starts.at(row * self.wide_groups() + col / WIDE_GROUP),
            wide_stride: self.wide_groups(),
        }
    }
}

/// Where groups of a row are written.
#[derive(Clone, Copy)]
pub struct RowMut {
    groups: usize,
    codes: *mut i8,
    /// As the fields of [`QuantizedRows`], from the first of these groups on.
    pub scales: *mut f32,
    pub neg_sums: [*mut i32; 2],
    pub scaled_sums: [*mut f32; 2],
    pub wide_starts: *mut i32,
}

impl RowMut {
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Where a group's codes go.
    #[inline(always)]
    pub fn codes(&self, group: usize) -> *mut i8 {
        debug_assert!(group < self.groups);
        self.codes.wrapping_add(group * GROUP)
    }

    /// Writes what goes with a group's codes, from the sums of its halves.
    ///
    /// # Safety
    /// `group` is below `groups`, and the groups are the caller's alone.
    #[inline(always)]
    pub unsafe fn write_factors(&self, group: usize, scale: f32, sums: [i32; 2]) {
        let sum = sums[0] + sums[1];
        // SAFETY: `resize` made room for every group of the row.
        unsafe {
            *self.scales.add(group) = scale;
            *self.neg_sums[0].add(group) = -sum;
            *self.scaled_sums[0].add(group) = scale * sum as f32;
            for (half, sum) in sums.into_iter().enumerate() {
                *self.neg_sums[1].add(2 * group + half) = -sum;
                *self.scaled_sums[1].add(2 * group + half) = scale * sum as f32;
            }
        }
    }
}

/// Quantized rows as kernels read them, from some row and column on.
#[derive(Clone, Copy)]
pub struct Int8Rows {
    /// (rows, code_stride).
    pub codes: *const i8,
    pub code_stride: usize,
    /// (rows, scale_stride), one per 32 columns.
    pub scales: *const f32,
    pub scale_stride: usize,
    /// (rows, sum_stride), one per group of the weights, as are `scaled_sums`.
    pub neg_sums: *const i32,
    pub scaled_sums: *const f32,
    pub sum_stride: usize,
    /// (rows, wide_stride); of wide rows.
    pub wide_starts: *const i32,
    pub wide_stride: usize,
}

impl Int8Rows {
    /// The same columns, `rows` rows further down.
    ///
    /// # Safety
    /// There are that many rows.
    pub unsafe fn skip_rows(&self, rows: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                codes: self.codes.add(rows * self.code_stride),
                scales: self.scales.add(rows * self.scale_stride),
                neg_sums: self.neg_sums.add(rows * self.sum_stride),
                scaled_sums: self.scaled_sums.add(rows * self.sum_stride),
                wide_starts: self.wide_starts.add(rows * self.wide_stride),
                ..*self
            }
        }
    }

    /// The same rows from `cols` columns further on, for weights in groups of `group`.
    ///
    /// # Safety
    /// There are that many columns: whole groups of 32.
    pub unsafe fn skip_cols(&self, cols: usize, group: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                codes: self.codes.add(cols),
                scales: self.scales.add(cols / GROUP),
                neg_sums: self.neg_sums.add(cols / group),
                scaled_sums: self.scaled_sums.add(cols / group),
                ..*self
            }
        }
    }
}

/// Adding it moves a float's integer part, rounded to nearest even, into its low bits.
const ROUND: f32 = 12_582_912.0;

/// Quantizes groups of one row: the specification.
///
/// # Safety
/// `out` has room for `x`, and is the caller's alone.
pub unsafe fn quantize_groups(x: &[f32], out: RowMut) {
    for (group, x) in x.chunks(GROUP).enumerate() {
        // SAFETY: group < out.groups, for which `resize` made room.
        unsafe { write_group(x, largest(x), group, out) };
    }
}

/// The same for wide groups.
///
/// # Safety
/// As for `quantize_groups`.
pub unsafe fn quantize_wide(x: &[f32], out: RowMut) {
    for (wide, x) in x.chunks(WIDE_GROUP).enumerate() {
        let max = largest(x);
        // SAFETY: as above.
        let sums = x.chunks(GROUP).enumerate().map(|(i, x)| unsafe { write_group(x, max, 2 * wide + i, out) });
        let sum = sums.sum::<i32>();
        // SAFETY: as above.
        unsafe { *out.wide_starts.add(wide) = start_of(sum) };
    }
}

/// See `QuantizedRows::wide_starts`.
#[inline(always)]
pub fn start_of(sum: i32) -> i32 {
    -sum * i32::from(ROW_OFFSET)
}

/// The largest magnitude: as integers, they compare as the numbers do, infinity and NaN highest.
fn largest(x: &[f32]) -> f32 {
    f32::from_bits(x.iter().fold(0u32, |max, v| max.max(v.to_bits() & 0x7fff_ffff)))
}

/// A group, zeros behind the end of `x`; `max` is the largest magnitude of what shares its scale. Returns the sum of its codes.
///
/// # Safety
/// `group` is below `out.groups`, and `out` is the caller's alone.
unsafe fn write_group(x: &[f32], max: f32, group: usize, out: RowMut) -> i32 {
    let (scale, inverse) = scale_of(max);
    let mut codes = [0i8; GROUP];
    for (code, v) in codes.iter_mut().zip(x) {
        // NaN times zero never gets here.
        *code = code_of(if max.is_finite() { *v } else { 0.0 }, inverse);
    }
    let sum = |half: usize| codes[half * 16..][..16].iter().map(|&q| i32::from(q)).sum::<i32>();
    let sums = [sum(0), sum(1)];
    // SAFETY: the caller's promise.
    unsafe {
        std::ptr::copy_nonoverlapping(codes.as_ptr(), out.codes(group), GROUP);
        out.write_factors(group, scale, sums);
    }
    sums[0] + sums[1]
}

/// The code of a number of a group whose scale has this inverse: rounded to nearest, ties to even.
#[inline(always)]
pub fn code_of(v: f32, inverse: f32) -> i8 {
    // Only the low byte of the sum's bits is the code.
    (v * inverse + ROUND).to_bits() as i8
}

/// Scale and its inverse for the largest magnitude of a group (its bits compare as integers, NaN highest).
#[inline(always)]
pub fn scale_of(max: f32) -> (f32, f32) {
    if !max.is_finite() {
        return (f32::NAN, 0.0);
    }
    let inverse = 127.0 / max;
    // So small (or zero) that the inverse overflows: the group is zero.
    if inverse.is_finite() { (max / 127.0, inverse) } else { (0.0, 0.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantize(x: &[f32]) -> (Vec<i8>, Vec<f32>) {
        let mut rows = QuantizedRows::default();
        rows.resize(1, x.len());
        // SAFETY: one row, one thread.
        unsafe {
            quantize_groups(x, rows.part(0, 0, x.len()));
            let view = rows.view(0, 0, 32);
            let codes = std::slice::from_raw_parts(view.codes, x.len().next_multiple_of(32)).to_vec();
            let scales = (0..x.len().div_ceil(32)).map(|g| *view.scales.add(g)).collect();
            (codes, scales)
        }
    }

    #[test]
    fn rounds_to_nearest_even_and_pads_with_zeros() {
        let x: Vec<f32> = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127.0, 126.5].to_vec();
        let (codes, scales) = quantize(&x);
        assert_eq!(&codes[..9], &[127, 0, 2, 2, 0, -2, -2, -127, 126]);
        assert!(codes[9..].iter().all(|&q| q == 0));
        assert_eq!(scales, [1.0]);
    }

    #[test]
    fn foreign_numbers_become_nan_and_tiny_ones_zero() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 64];
            x[40] = bad;
            let (codes, scales) = quantize(&x);
            assert_eq!(codes[0], 127);
            assert!(scales[0].is_finite() && scales[1].is_nan() && codes[32..].iter().all(|&q| q == 0));
        }
        for tiny in [0.0, -0.0, f32::from_bits(1), 1e-38] {
            assert_eq!(quantize(&[tiny; 32]), (vec![0; 32], vec![0.0]));
        }
    }

    /// Everything that a tier writes for one row, as bits.
    fn written(kernels: crate::kernels::Kernels, x: &[f32], is_wide: bool) -> Vec<u32> {
        let mut rows = QuantizedRows { is_wide, ..QuantizedRows::default() };
        rows.resize(1, x.len());
        let groups = x.len().div_ceil(GROUP);
        // SAFETY: one row, one thread; every group was written.
        unsafe {
            kernels.quantize(x, &rows, 0, 0);
            let (whole, half) = (rows.view(0, 0, 32), rows.view(0, 0, 16));
            let codes = (0..groups * GROUP).map(|i| *whole.codes.add(i) as u32);
            let scales = (0..groups).map(|g| (*whole.scales.add(g)).to_bits());
            let sums = |view: Int8Rows, count| {
                (0..count).flat_map(move |g| [*view.neg_sums.add(g) as u32, (*view.scaled_sums.add(g)).to_bits()])
            };
            let wide =
                (0..if is_wide { x.len().div_ceil(WIDE_GROUP) } else { 0 }).map(|g| *whole.wide_starts.add(g) as u32);
            codes.chain(scales).chain(sums(whole, groups)).chain(sums(half, 2 * groups)).chain(wide).collect()
        }
    }

    proptest::proptest! {
        #[test]
        fn tiers_write_the_same_bits(mut x in proptest::collection::vec(-1e3f32..1e3, 1..300), bad: u8, power in -30i32..30, is_wide: bool) {
            use crate::config::Isa;
            use crate::kernels::Kernels;
            x.iter_mut().for_each(|v| *v *= 2f32.powi(power));
            if let Some(x) = x.get_mut(usize::from(bad)) {
                *x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][usize::from(bad % 3)];
            }
            // Scales of NaN compare as numbers that are not one.
            let tidy = |bits: Vec<u32>| -> Vec<u32> {
                bits.into_iter().map(|b| if f32::from_bits(b).is_nan() { 0x7fc0_0000 } else { b }).collect()
            };
            let expected = tidy(written(Kernels::new(Some(Isa::Scalar)).unwrap(), &x, is_wide));
            for kernels in [Isa::Avx2, Isa::Avx512].into_iter().filter_map(|isa| Kernels::new(Some(isa)).ok()) {
                proptest::prop_assert_eq!(&tidy(written(kernels, &x, is_wide)), &expected, "{}", kernels.isa());
            }
        }

        #[test]
        fn error_is_at_most_half_a_step(x in proptest::collection::vec(-1e3f32..1e3, 1..200), power in -30i32..30) {
            let x: Vec<f32> = x.iter().map(|v| v * 2f32.powi(power)).collect();
            let (codes, scales) = quantize(&x);
            for (i, v) in x.iter().enumerate() {
                let scale = scales[i / 32];
                proptest::prop_assert!(codes[i] != -128);
                proptest::prop_assert!((f32::from(codes[i]) * scale - v).abs() <= 0.5001 * scale);
            }
        }
    }
}
