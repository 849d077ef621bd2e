//! Activations to int8.

use std::arch::x86_64::*;

use crate::kernels::matmul::{GROUP, RowMut, WIDE_GROUP, scale_of, start_of};
use crate::quant::ROW_OFFSET;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn quantize(x: &[f32], out: RowMut) {
    // SAFETY: the caller's promise.
    unsafe { groups::<false>(x, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn quantize_wide(x: &[f32], out: RowMut) {
    // SAFETY: the caller's promise.
    unsafe { groups::<true>(x, out) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn groups<const WIDE: bool>(x: &[f32], out: RowMut) {
    let whole = x.len() / GROUP;
    let mut group = 0;
    while group < out.groups() {
        // The last four whole groups again, where fewer are left: that is faster than each for itself.
        let are_four_better = (1..4).contains(&whole.saturating_sub(group)) && !(WIDE && whole % 2 == 1);
        let first = if are_four_better { whole.saturating_sub(4) } else { group };
        // SAFETY: the caller's promise; a group's codes are 32 bytes.
        unsafe {
            match x.get(first * GROUP..(first + 4) * GROUP) {
                Some(four) if four_groups::<WIDE>(four.as_ptr(), first, out) => group = first + 4,
                _ if WIDE => {
                    wide_group(&x[group * GROUP..], group, out);
                    group += 2;
                }
                _ => {
                    one_group(&x[group * GROUP..], group, out);
                    group += 1;
                }
            }
        }
    }
}

/// A group, zeros behind the end of `x`.
///
/// # Safety
/// `out` has the group, and it is the caller's alone.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn one_group(x: &[f32], group: usize, out: RowMut) {
    // SAFETY: the caller's promise.
    unsafe { write_one(x, largest(x.get(..GROUP).unwrap_or(x)), group, out) };
}

/// The same for two groups that share their scale; of the second there may be nothing.
///
/// # Safety
/// As for `one_group`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn wide_group(x: &[f32], group: usize, out: RowMut) {
    let x = x.get(..WIDE_GROUP).unwrap_or(x);
    let max = largest(x);
    let mut sum = 0;
    for (i, x) in x.chunks(GROUP).enumerate() {
        // SAFETY: the caller's promise.
        sum += unsafe { write_one(x, max, group + i, out) };
    }
    // SAFETY: as above.
    unsafe { *out.wide_starts.add(group / 2) = start_of(sum) };
}

/// The largest magnitude.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn largest(x: &[f32]) -> f32 {
    let mut max = _mm512_setzero_si512();
    for x in x.chunks(16) {
        max = _mm512_max_epu32(max, magnitude(load_floats(x)));
    }
    f32::from_bits(_mm512_reduce_max_epu32(max))
}

/// A group whose scale is that of the largest magnitude `max`. Returns the sum of its codes.
///
/// # Safety
/// As for `one_group`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn write_one(x: &[f32], max: f32, group: usize, out: RowMut) -> i32 {
    let (low, high) = (load_floats(x), load_floats(x.get(16..).unwrap_or_default()));
    let (scale, inverse) = scale_of(max);
    let keep = if max.is_finite() { !0 } else { 0 };
    let codes = |v| _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(v, _mm512_set1_ps(inverse)));
    let (low, high) = (codes(low), codes(high));
    // SAFETY: the caller's promise; a group's codes are 32 bytes.
    unsafe {
        _mm_storeu_si128(out.codes(group).cast(), _mm512_cvtepi32_epi8(low));
        _mm_storeu_si128(out.codes(group).add(16).cast(), _mm512_cvtepi32_epi8(high));
        let sums = [_mm512_reduce_add_epi32(low), _mm512_reduce_add_epi32(high)];
        out.write_factors(group, scale, sums);
        sums[0] + sums[1]
    }
}

/// Four groups, whose maxima, scales and sums share registers: a quarter each. False: one of the numbers is not finite,
/// and nothing was written.
///
/// # Safety
/// `x` has 128 numbers, `out` the four groups, and they are the caller's alone.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn four_groups<const WIDE: bool>(x: *const f32, group: usize, out: RowMut) -> bool {
    let mut halves = [[_mm512_setzero_ps(); 2]; 4];
    let mut max = [_mm512_setzero_si512(); 4];
    for g in 0..4 {
        for half in 0..2 {
            // SAFETY: the caller's 128 numbers.
            halves[g][half] = unsafe { _mm512_loadu_ps(x.add(g * GROUP + half * 16)) };
        }
        max[g] = _mm512_max_epu32(magnitude(halves[g][0]), magnitude(halves[g][1]));
    }
    let mut max = greatest_of_each(max);
    if WIDE {
        max = _mm512_max_epu32(max, _mm512_shuffle_i32x4::<0xb1>(max, max));
    }
    let max_floats = _mm512_castsi512_ps(max);
    if _mm512_cmpge_epu32_mask(max, _mm512_set1_epi32(f32::INFINITY.to_bits() as i32)) != 0 {
        return false;
    }
    // As `scale_of`: where the inverse overflows, the group is zero.
    let all_127 = _mm512_set1_ps(127.0);
    let inverse = _mm512_div_ps(all_127, max_floats);
    let fits = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(inverse, _mm512_set1_ps(f32::INFINITY));
    let scales = _mm512_maskz_div_ps(fits, max_floats, all_127);
    let inverse = _mm512_maskz_mov_ps(fits, inverse);
    let inverses = [
        _mm512_shuffle_f32x4::<0x00>(inverse, inverse),
        _mm512_shuffle_f32x4::<0x55>(inverse, inverse),
        _mm512_shuffle_f32x4::<0xaa>(inverse, inverse),
        _mm512_shuffle_f32x4::<0xff>(inverse, inverse),
    ];
    let mut sums = [_mm512_setzero_si512(); 2];
    for pair in 0..2 {
        let mut words = [_mm512_setzero_si512(); 2];
        for i in 0..2 {
            let g = 2 * pair + i;
            let low = _mm512_cvtps_epi32(_mm512_mul_ps(halves[g][0], inverses[g]));
            let high = _mm512_cvtps_epi32(_mm512_mul_ps(halves[g][1], inverses[g]));
            words[i] = _mm512_packs_epi32(low, high);
        }
        // Packing goes by quarters: four codes of each half of both groups, and again.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let codes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(words[0], words[1]));
        // SAFETY: the caller's groups: their codes are 64 bytes.
        unsafe { _mm512_storeu_si512(out.codes(group + 2 * pair).cast(), codes) };
        let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
        let eights = _mm512_add_epi32(fours, _mm512_shuffle_epi32::<0x4e>(fours));
        sums[pair] = _mm512_add_epi32(eights, _mm512_shuffle_epi32::<0xb1>(eights));
    }
    let first_of_quarters = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    let half_sums = _mm512_castsi512_si256(_mm512_permutex2var_epi32(sums[0], first_of_quarters, sums[1]));
    let scales = _mm512_castps512_ps128(_mm512_permutexvar_ps(first_of_quarters, scales));
    // SAFETY: the caller's groups.
    unsafe { write_factors::<WIDE>(group, scales, half_sums, out) };
    true
}

/// As `RowMut::write_factors`, for four groups.
///
/// # Safety
/// `out` has the groups, and they are the caller's alone.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn write_factors<const WIDE: bool>(group: usize, scales: __m128, half_sums: __m256i, out: RowMut) {
    let zero = _mm256_setzero_si256();
    let half_scales =
        _mm256_permutevar8x32_ps(_mm256_castps128_ps256(scales), _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
    let by_parity = _mm256_permutevar8x32_epi32(half_sums, _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(by_parity), _mm256_extracti128_si256::<1>(by_parity));
    // SAFETY: `resize` made room for every group of the row.
    unsafe {
        _mm_storeu_ps(out.scales.add(group), scales);
        let neg_sums = _mm_sub_epi32(_mm256_castsi256_si128(zero), sums);
        _mm_storeu_si128(out.neg_sums[0].add(group).cast(), neg_sums);
        if WIDE {
            let starts = _mm_slli_epi32::<{ ROW_OFFSET.trailing_zeros() as i32 }>(_mm_hadd_epi32(neg_sums, neg_sums));
            _mm_storel_epi64(out.wide_starts.add(group / 2).cast(), starts);
        }
        _mm_storeu_ps(out.scaled_sums[0].add(group), _mm_mul_ps(scales, _mm_cvtepi32_ps(sums)));
        _mm256_storeu_si256(out.neg_sums[1].add(2 * group).cast(), _mm256_sub_epi32(zero, half_sums));
        _mm256_storeu_ps(out.scaled_sums[1].add(2 * group), _mm256_mul_ps(half_scales, _mm256_cvtepi32_ps(half_sums)));
    }
}

/// The greatest of each register's lanes, in a quarter of the result.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn greatest_of_each(x: [__m512i; 4]) -> __m512i {
    let mut pairs = [_mm512_setzero_si512(); 2];
    for i in 0..2 {
        let (a, b) = (x[2 * i], x[2 * i + 1]);
        pairs[i] = _mm512_max_epu32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
    }
    let [a, b] = pairs;
    let quarters = _mm512_max_epu32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    let twos = _mm512_max_epu32(quarters, _mm512_shuffle_epi32::<0x4e>(quarters));
    _mm512_max_epu32(twos, _mm512_shuffle_epi32::<0xb1>(twos))
}

/// As integers, magnitudes compare as the numbers do, infinity and NaN highest.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn magnitude(v: __m512) -> __m512i {
    _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fff_ffff))
}

/// The first sixteen of `x`; where there are fewer, zeros follow.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn load_floats(x: &[f32]) -> __m512 {
    let mask = if x.len() >= 16 { !0 } else { (1 << x.len()) - 1 };
    // SAFETY: the mask leaves lanes of `x` only.
    unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr()) }
}
