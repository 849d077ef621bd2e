//! The matrix kernels in AVX2: a panel's 16 rows are two registers of 8.

use std::arch::x86_64::*;

use crate::kernels::matmul::{F32Rows, F32Sums, F32Weights, GroupShape, Int8Rows, Int8Sums, Lanes, MatmulTier};
use crate::kernels::matmul::{PanelChunk, RowMut, quantize_groups};
use crate::quant::{BlockSpec, Format, Layout, PANEL_ROWS, with_format};

pub static TIER: MatmulTier = MatmulTier { quantize, unpack, int8_tile, int8_panel: None, decode, widen, f32_tile };

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize(x: &[f32], out: RowMut) {
    // SAFETY: the caller's promise.
    unsafe { quantize_groups(x, out) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack(layout: Layout, block: *const u8, cols: usize, out: &mut PanelChunk) {
    // SAFETY: the caller's columns are whole blocks of a panel.
    with_format!(layout, F => unsafe { unpack_blocks::<F>(block, cols, out) }).expect("dense panels have no blocks")
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack_blocks<F: Format>(first: *const u8, cols: usize, out: &mut PanelChunk) {
    let spec = const { F::SPEC };
    for b in 0..cols / spec.cols {
        // SAFETY: block b lies inside the panel, and its columns inside the chunk.
        unsafe {
            let block = first.add(b * spec.bytes());
            for g in 0..spec.groups() {
                let at = b * spec.groups() + g;
                for half in 0..2 {
                    store8(&mut out.scales[at], half, group_factor(block, spec, 0, spec.sub_scales_at(), g, half));
                    if spec.min {
                        let min = group_factor(block, spec, spec.min_at(), spec.sub_mins_at(), g, half);
                        store8(&mut out.mins[at], half, min);
                    }
                }
            }
            unpack_codes(block.add(spec.codes_at()), spec, out.codes.as_mut_ptr().add(b * spec.cols * PANEL_ROWS));
        }
    }
}

/// Eight rows' scale or minimum of a group: f16, times an i8 if there are sub-scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_factor(block: *const u8, spec: BlockSpec, at: usize, sub: usize, group: usize, half: usize) -> __m256 {
    // SAFETY: offsets of the block's own layout.
    unsafe {
        let factor = _mm256_cvtph_ps(_mm_loadu_si128(block.add(at + 16 * half).cast()));
        if !spec.sub_scales {
            return factor;
        }
        let sub = _mm_loadl_epi64(block.add(sub + group * PANEL_ROWS + 8 * half).cast());
        _mm256_mul_ps(factor, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(sub)))
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn unpack_codes(codes: *const u8, spec: BlockSpec, out: *mut u8) {
    let bytes = spec.groups() * spec.group_bytes();
    // SAFETY: `codes` has that many bytes, and `out` room for their columns.
    unsafe {
        if spec.bits == 8 {
            return std::ptr::copy_nonoverlapping(codes, out, bytes);
        }
        let low_mask = _mm256_set1_epi8(15);
        for at in (0..bytes).step_by(32) {
            let v = _mm256_loadu_si256(codes.add(at).cast());
            // The second half of a line follows its first; a line of nibbles becomes two of bytes.
            let to = out.add(at / 64 * 128 + at % 64);
            _mm256_storeu_si256(to.cast(), _mm256_and_si256(v, low_mask));
            _mm256_storeu_si256(to.add(64).cast(), _mm256_and_si256(_mm256_srli_epi16::<4>(v), low_mask));
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load8(lanes: &Lanes, half: usize) -> __m256 {
    // SAFETY: half is 0 or 1.
    unsafe { _mm256_loadu_ps(lanes.as_ptr().add(8 * half)) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store8(lanes: &mut Lanes, half: usize, v: __m256) {
    // SAFETY: half is 0 or 1.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr().add(8 * half), v) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int8_tile(chunks: &[PanelChunk], shape: GroupShape, cols: usize, x: Int8Rows, sums: &mut [Int8Sums]) {
    // Codes above 127 would saturate maddubs' pair sums.
    let wide = shape.offset == 128;
    for (p, chunk) in chunks.iter().enumerate() {
        for (i, sums) in sums.chunks_mut(4).enumerate() {
            // SAFETY: `x` has sums.len() rows.
            unsafe {
                let x = x.skip_rows(4 * i);
                match (sums.len(), wide) {
                    (4, false) => int8_rows::<4, false>(chunk, shape, cols, x, sums, p),
                    (4, true) => int8_rows::<4, true>(chunk, shape, cols, x, sums, p),
                    (_, false) => (0..sums.len())
                        .for_each(|t| int8_rows::<1, false>(chunk, shape, cols, x.skip_rows(t), &mut sums[t..], p)),
                    (_, true) => (0..sums.len())
                        .for_each(|t| int8_rows::<1, true>(chunk, shape, cols, x.skip_rows(t), &mut sums[t..], p)),
                }
            }
        }
    }
}

/// `T` rows against one panel.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn int8_rows<const T: usize, const WIDE: bool>(
    chunk: &PanelChunk,
    shape: GroupShape,
    cols: usize,
    x: Int8Rows,
    sums: &mut [Int8Sums],
    panel: usize,
) {
    for g in 0..cols / shape.group {
        // SAFETY: `x` has T rows and `cols` columns; the chunk has as many.
        unsafe {
            let mut acc = [[_mm256_setzero_si256(); 2]; T];
            for t in 0..T {
                acc[t] = [_mm256_set1_epi32(*x.neg_sums.add(t * x.sum_stride + g) * shape.offset); 2];
            }
            for col in (g * shape.group..(g + 1) * shape.group).step_by(4) {
                let codes = chunk.codes.as_ptr().add(col * PANEL_ROWS);
                let w = [_mm256_load_si256(codes.cast()), _mm256_load_si256(codes.add(32).cast())];
                for t in 0..T {
                    let q = _mm256_set1_epi32(x.codes.add(t * x.code_stride + col).cast::<i32>().read_unaligned());
                    acc[t] = [add_products::<WIDE>(acc[t][0], w[0], q), add_products::<WIDE>(acc[t][1], w[1], q)];
                }
            }
            for t in 0..T {
                let scale = _mm256_set1_ps(*x.scales.add(t * x.scale_stride + g * shape.group / 32));
                let scaled_sum = _mm256_set1_ps(*x.scaled_sums.add(t * x.sum_stride + g));
                for half in 0..2 {
                    let sum = &mut sums[t][panel];
                    let factor = _mm256_mul_ps(load8(&chunk.scales[g], half), scale);
                    let mut total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[t][half]), factor, load8(sum, half));
                    if shape.min {
                        total = _mm256_fmadd_ps(load8(&chunk.mins[g], half), scaled_sum, total);
                    }
                    store8(sum, half, total);
                }
            }
        }
    }
}

/// acc + the sums of four products u8 * i8, exactly.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn add_products<const WIDE: bool>(acc: __m256i, w: __m256i, q: __m256i) -> __m256i {
    if !WIDE {
        let pairs = _mm256_maddubs_epi16(w, q);
        return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    let mask = _mm256_set1_epi8(15);
    let low = _mm256_maddubs_epi16(_mm256_and_si256(w, mask), q);
    let high = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(w), mask), q);
    let low = _mm256_madd_epi16(low, _mm256_set1_epi16(1));
    let high = _mm256_madd_epi16(high, _mm256_set1_epi16(16));
    _mm256_add_epi32(acc, _mm256_add_epi32(low, high))
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode(chunk: &PanelChunk, shape: GroupShape, first_col: usize, out: &mut [Lanes]) {
    let offset = _mm256_set1_epi32(shape.offset);
    for (k, out) in out.iter_mut().enumerate() {
        let (col, group) = (first_col + k, (first_col + k) / shape.group);
        for half in 0..2 {
            // SAFETY: the chunk has the caller's columns.
            unsafe {
                let line = chunk.codes.as_ptr().add(col / 4 * 64 + 32 * half);
                let words = _mm256_srl_epi32(_mm256_load_si256(line.cast()), _mm_cvtsi32_si128((col % 4 * 8) as i32));
                let codes = _mm256_and_si256(words, _mm256_set1_epi32(255));
                let w = _mm256_cvtepi32_ps(_mm256_sub_epi32(codes, offset));
                let mut w = _mm256_mul_ps(load8(&chunk.scales[group], half), w);
                if shape.min {
                    w = _mm256_add_ps(w, load8(&chunk.mins[group], half));
                }
                store8(out, half, w);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen(layout: Layout, panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    for (k, out) in out.iter_mut().enumerate() {
        for half in 0..2 {
            let at = (first_col + k) * PANEL_ROWS + 8 * half;
            // SAFETY: the caller's columns lie inside the panel.
            unsafe {
                let w = match layout {
                    Layout::F32 => _mm256_loadu_ps(panel.cast::<f32>().add(at)),
                    Layout::F16 => _mm256_cvtph_ps(_mm_loadu_si128(panel.add(2 * at).cast())),
                    _ => {
                        let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(panel.add(2 * at).cast()));
                        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
                    }
                };
                store8(out, half, w);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32_tile(w: &F32Weights, x: F32Rows, cols: usize, panels: usize, sums: &mut [F32Sums]) {
    for (p, w) in w[..panels].iter().enumerate() {
        for (i, sums) in sums.chunks_mut(4).enumerate() {
            // SAFETY: `x` has sums.len() rows and `cols` columns.
            unsafe {
                let first = x.ptr.add(4 * i * x.stride);
                match sums.len() {
                    4 => f32_rows::<4>(&w[..cols], first, x.stride, sums, p),
                    n => (0..n)
                        .for_each(|t| f32_rows::<1>(&w[..cols], first.add(t * x.stride), x.stride, &mut sums[t..], p)),
                }
            }
        }
    }
}

/// `T` rows against one panel.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn f32_rows<const T: usize>(w: &[Lanes], x: *const f32, stride: usize, sums: &mut [F32Sums], panel: usize) {
    // SAFETY: `x` has T rows of w.len() columns, and `sums` T rows.
    unsafe {
        let mut acc = [[_mm256_setzero_ps(); 2]; T];
        for t in 0..T {
            acc[t] = [load8(&sums[t][panel], 0), load8(&sums[t][panel], 1)];
        }
        for (k, w) in w.iter().enumerate() {
            let w = [load8(w, 0), load8(w, 1)];
            for t in 0..T {
                let v = _mm256_set1_ps(*x.add(t * stride + k));
                acc[t] = [_mm256_fmadd_ps(w[0], v, acc[t][0]), _mm256_fmadd_ps(w[1], v, acc[t][1])];
            }
        }
        for t in 0..T {
            store8(&mut sums[t][panel], 0, acc[t][0]);
            store8(&mut sums[t][panel], 1, acc[t][1]);
        }
    }
}
