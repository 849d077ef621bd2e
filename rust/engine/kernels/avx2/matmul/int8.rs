//! Products with int8 activations. vpmaddubsw multiplies unsigned codes with signed activations, broadcast four
//! columns at a time, and adds neighbours to 16 bits. Its results are added in 16 bits for as long as none can
//! overflow, and widened once: per 32 columns where codes have four bits. Codes of eight bits are two of four, which
//! two tables give where nibbles stand for them.

use std::arch::x86_64::*;

use super::unpack::{group_min, group_scale, half_codes, half_nibbles, look_up, prefetch, step_codes};
use crate::kernels::matmul::{INT8_PANELS, Int8Rows, Int8Sums, Lanes, PanelChunk, PanelSums};
use crate::quant::{BlockSpec, Format, Layout, PANEL_ROWS, with_format};

/// Exact sums of products: eight rows of weights in each half.
type Dots<const T: usize> = [[__m256i; 2]; T];

/// Steps of four columns in a group.
const fn steps(spec: BlockSpec) -> usize {
    spec.group / 4
}

/// Steps whose results fit 16 bits when added up; 0 where a single one need not fit.
const fn steps_in_16_bits(spec: BlockSpec) -> usize {
    let fitting = i16::MAX as usize / (2 * 127 * ((1 << spec.code_bits) - 1));
    if fitting < steps(spec) { fitting } else { steps(spec) }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn int8_panels(
    layout: Layout,
    panels: &[*const u8],
    cols: usize,
    x: Int8Rows,
    rows: usize,
    out: &mut [PanelSums],
) {
    // SAFETY: the caller's promise.
    with_format!(layout, F => unsafe {
        match rows {
            1 => panel_rows::<F, 1>(panels, cols, x, out),
            2 => panel_rows::<F, 2>(panels, cols, x, out),
            3 => panel_rows::<F, 3>(panels, cols, x, out),
            _ => panel_rows::<F, 4>(panels, cols, x, out),
        }
    })
    .expect("dense panels have no codes")
}

/// `T` rows against packed panels, a group of each in turn: memory is read faster in several streams than in one.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panel_rows<F: Format, const T: usize>(panels: &[*const u8], cols: usize, x: Int8Rows, out: &mut [PanelSums]) {
    let spec = const { F::SPEC };
    for b in 0..cols / spec.cols {
        for g in 0..spec.groups() {
            for (panel, sums) in panels.iter().zip(&mut *out) {
                // SAFETY: block b lies inside the panel; `x` has T rows of `cols` columns.
                unsafe { panel_group::<F, T>(panel.add(b * spec.bytes()), g, x, b * spec.groups() + g, sums) };
            }
        }
    }
}

/// Adds the products of a block's group `g`, the panel's group `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn panel_group<F: Format, const T: usize>(
    block: *const u8,
    g: usize,
    x: Int8Rows,
    at: usize,
    sums: &mut PanelSums,
) {
    let spec = const { F::SPEC };
    // SAFETY: the caller's block and rows.
    unsafe {
        let codes = block.add(spec.codes_at() + g * spec.group_bytes());
        prefetch(codes, spec.group_bytes());
        let dots = dots::<F, false, T>(codes, x, at);
        for half in 0..2 {
            let scale = group_scale(block, spec, g, half);
            let min = match spec.min {
                true => group_min(block, spec, g, half),
                false => _mm256_setzero_ps(),
            };
            for t in 0..T {
                let sum = sums[t].as_mut_ptr().add(8 * half);
                let total = add_group::<F>(_mm256_loadu_ps(sum), dots[t][half], scale, min, x, t, at);
                _mm256_storeu_ps(sum, total);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn int8_tile(layout: Layout, chunks: &[PanelChunk], cols: usize, x: Int8Rows, sums: &mut [Int8Sums]) {
    for (panel, chunk) in chunks.iter().enumerate() {
        // SAFETY: the caller's promise.
        with_format!(layout, F => unsafe { tile::<F>(chunk, cols, x, sums, panel) })
            .expect("dense panels have no codes")
    }
}

/// All rows against one unpacked panel, as many at a time as fit the registers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile<F: Format>(chunk: &PanelChunk, cols: usize, x: Int8Rows, sums: &mut [Int8Sums], panel: usize) {
    let mut row = 0;
    while row < sums.len() {
        // SAFETY: `x` has sums.len() rows; each call takes rows that exist.
        row += unsafe {
            let (x, out) = (x.skip_rows(row), sums[row..].as_mut_ptr().cast::<Lanes>().add(panel));
            match sums.len() - row {
                6.. => tile_rows::<F, 6>(chunk, cols, x, out),
                4.. => tile_rows::<F, 4>(chunk, cols, x, out),
                2.. => tile_rows::<F, 2>(chunk, cols, x, out),
                _ => tile_rows::<F, 1>(chunk, cols, x, out),
            }
        };
    }
}

/// `T` rows against one unpacked panel, added to its sums in `out`, which are `Int8Sums` apart; returns T.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_rows<F: Format, const T: usize>(chunk: &PanelChunk, cols: usize, x: Int8Rows, out: *mut Lanes) -> usize {
    let group = const { F::SPEC.group };
    for g in 0..cols / group {
        // SAFETY: `x` has T rows of `cols` columns, the chunk as many, and `out` T rows.
        unsafe {
            let dots = dots::<F, true, T>(chunk.codes.as_ptr().add(g * group * PANEL_ROWS), x, g);
            for half in 0..2 {
                let scale = _mm256_load_ps(chunk.scales.as_ptr().add(g).cast::<f32>().add(8 * half));
                let min = _mm256_load_ps(chunk.mins.as_ptr().add(g).cast::<f32>().add(8 * half));
                for t in 0..T {
                    let sum = out.add(t * INT8_PANELS).cast::<f32>().add(8 * half);
                    let total = add_group::<F>(_mm256_loadu_ps(sum), dots[t][half], scale, min, x, t, g);
                    _mm256_storeu_ps(sum, total);
                }
            }
        }
    }
    T
}

/// How codes lie in the panel, or in a chunk.
const fn stored<F: Format>(unpacked: bool) -> BlockSpec {
    if unpacked { F::SPEC.unpacked() } else { F::SPEC }
}

/// The products of group `g` of `x` with its codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<F: Format, const UNPACKED: bool, const T: usize>(codes: *const u8, x: Int8Rows, g: usize) -> Dots<T> {
    // SAFETY: the caller's group exists.
    unsafe {
        let first = x.codes.add(g * const { F::SPEC.group });
        match const { steps_in_16_bits(F::SPEC) } {
            0 => nibble_dots::<F, UNPACKED, T>(codes, first, x.code_stride),
            _ => pair_dots::<F, UNPACKED, T>(codes, first, x.code_stride),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pair_dots<F: Format, const UNPACKED: bool, const T: usize>(
    codes: *const u8,
    x: *const i8,
    stride: usize,
) -> Dots<T> {
    let (steps, per_sum) = const { (steps(F::SPEC), steps_in_16_bits(F::SPEC)) };
    let mut dots = [[_mm256_setzero_si256(); 2]; T];
    for sum in 0..steps / per_sum {
        let mut pairs = [[_mm256_setzero_si256(); 2]; T];
        for line in sum * per_sum / 2..(sum + 1) * per_sum / 2 {
            // SAFETY: the group has these steps, two to a line of nibbles.
            unsafe {
                let codes = after(&pairs, codes);
                for step in [2 * line, 2 * line + 1] {
                    add_step(
                        &mut pairs,
                        step_codes(codes, const { stored::<F>(UNPACKED) }, step),
                        x.add(4 * step),
                        stride,
                    );
                }
            }
        }
        for t in 0..T {
            for half in 0..2 {
                let widened = _mm256_madd_epi16(pairs[t][half], _mm256_set1_epi16(1));
                dots[t][half] = _mm256_add_epi32(dots[t][half], widened);
            }
        }
    }
    dots
}

/// The same where codes have eight bits: two nibbles each, one half of the panel's rows after the other.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn nibble_dots<F: Format, const UNPACKED: bool, const T: usize>(
    codes: *const u8,
    x: *const i8,
    stride: usize,
) -> Dots<T> {
    let mut dots = [[_mm256_setzero_si256(); 2]; T];
    for half in 0..2 {
        let mut pairs = [[_mm256_setzero_si256(); 2]; T];
        for step in 0..const { steps(F::SPEC) } {
            // SAFETY: the group has this step.
            unsafe {
                let nibbles = code_nibbles::<F, UNPACKED>(after(&pairs, codes), step, half);
                add_step(&mut pairs, nibbles, x.add(4 * step), stride);
            }
        }
        for t in 0..T {
            let low = _mm256_madd_epi16(pairs[t][0], _mm256_set1_epi16(1));
            let high = _mm256_madd_epi16(pairs[t][1], _mm256_set1_epi16(16));
            dots[t][half] = _mm256_add_epi32(low, high);
        }
    }
    dots
}

/// The low and the high nibbles of a step's codes, of one half of the rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn code_nibbles<F: Format, const UNPACKED: bool>(codes: *const u8, step: usize, half: usize) -> [__m256i; 2] {
    let spec = const { stored::<F>(UNPACKED) };
    // SAFETY: `codes` has the step's lines.
    unsafe {
        if spec.values.is_some() {
            let places = half_nibbles(codes.add(32 * half), step);
            let [low, high] = const { nibble_tables(F::SPEC) };
            return [look_up(&low, places), look_up(&high, places)];
        }
        let codes = half_codes(codes, spec, step, half);
        let mask = _mm256_set1_epi8(15);
        [_mm256_and_si256(codes, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(codes), mask)]
    }
}

/// The low and the high nibbles of a layout's values.
const fn nibble_tables(spec: BlockSpec) -> [[u8; 16]; 2] {
    let mut tables = [[0; 16]; 2];
    if let Some(values) = spec.values {
        let mut i = 0;
        while i < 16 {
            (tables[0][i], tables[1][i]) = (values[i] & 15, values[i] >> 4);
            i += 1;
        }
    }
    tables
}

/// Adds the products of four columns: pairs[t][i] += w[i] * x[t].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_step<const T: usize>(pairs: &mut Dots<T>, w: [__m256i; 2], x: *const i8, stride: usize) {
    for t in 0..T {
        // SAFETY: the caller's T rows have four columns here.
        let q = _mm256_set1_epi32(unsafe { x.add(t * stride).cast::<i32>().read_unaligned() });
        for i in 0..2 {
            pairs[t][i] = _mm256_add_epi16(pairs[t][i], _mm256_maddubs_epi16(w[i], q));
        }
    }
}

/// The pointer, once the sums are computed. LLVM would otherwise load for all steps at once, and spill the sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read or written")]
fn after<const T: usize>(pairs: &Dots<T>, mut codes: *const u8) -> *const u8 {
    // SAFETY: the assembly is empty.
    unsafe {
        std::arch::asm!("/* {0} {1} */", inout(reg) codes, in(ymm_reg) pairs[T - 1][1],
            options(pure, nomem, nostack, preserves_flags));
    }
    codes
}

/// sum + (dot - offset * the sum of the activations) * scales + minimum * the sum of the activations: the same
/// operations wherever a group ends.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn add_group<F: Format>(
    sum: __m256,
    dot: __m256i,
    scale: __m256,
    min: __m256,
    x: Int8Rows,
    row: usize,
    group: usize,
) -> __m256 {
    let spec = const { F::SPEC };
    // SAFETY: the caller's row and group exist.
    unsafe {
        let dot = match spec.offset {
            0 => dot,
            offset => {
                let neg_sum = _mm256_set1_epi32(*x.neg_sums.add(row * x.sum_stride + group));
                let shift = _mm_cvtsi32_si128(offset.trailing_zeros() as i32);
                _mm256_add_epi32(dot, _mm256_sll_epi32(neg_sum, shift))
            }
        };
        let x_scale = *x.scales.add(row * x.scale_stride + group * spec.group / 32);
        let factor = _mm256_mul_ps(scale, _mm256_set1_ps(x_scale));
        let sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, sum);
        if !spec.min {
            return sum;
        }
        _mm256_fmadd_ps(min, _mm256_set1_ps(*x.scaled_sums.add(row * x.sum_stride + group)), sum)
    }
}
