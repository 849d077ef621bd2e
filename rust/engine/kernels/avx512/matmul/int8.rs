//! Products with int8 activations. Codes are vpdpbusd's unsigned operand, four columns of an activation row
//! its signed one, broadcast: a register accumulates 16 rows of weights, and nothing is summed across lanes.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::unpack::{group_min, group_scale, step_codes};
use crate::kernels::matmul::{GroupShape, Int8Rows, PackedPanels};
use crate::kernels::simd::{opaque, prefetch};
use crate::quant::{Format, Layout, PANEL_ROWS, with_format};

/// Most rows of a tile.
const TILE_ROWS: usize = 6;

/// Columns of a pair of panels that are unpacked together: whole blocks of every layout, and two thirds of L1.
const UNPACKED_COLS: usize = 1024;

/// Codes of two panels, a byte each, in the order in which tiles read them.
type UnpackedCodes = [__m512i; 2 * UNPACKED_COLS * PANEL_ROWS / 64];

/// What a tile multiplies with.
#[derive(Clone, Copy)]
struct Panels<const P: usize> {
    /// The first block of each.
    blocks: [*const u8; P],
    /// [`UnpackedCodes`], for tiles that read those.
    unpacked: *const u8,
    /// The tile goes on where one of the columns before ended.
    sums_wait: bool,
}

impl<const P: usize> Panels<P> {
    fn packed(blocks: [*const u8; P]) -> Self {
        Self { blocks, unpacked: std::ptr::null(), sums_wait: false }
    }
}

/// Panels of small matrices have fewer bytes. Their model lies in L3, which wants to be asked further ahead than DRAM.
const SMALL_PANEL: usize = 16 << 10;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn packed_int8(
    layout: Layout,
    panels: PackedPanels,
    x: Int8Rows,
    rows: usize,
    out: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    with_format!(layout, F => unsafe {
        match const { 4 < F::SPEC.bits && F::SPEC.bits < 8 } && rows > 4 * TILE_ROWS {
            true => unpacked_panels::<F>(panels, x, rows, out, stride),
            false => all_panels::<F>(panels, x, rows, out, stride),
        }
    })
    .expect("dense panels have no codes");
}

/// Codes of five and six bits take so long to unpack that several tiles share it: pairs of panels are unpacked to L1, a
/// chunk of columns at a time, and sums wait in `out` for the next chunk.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpacked_panels<F: Format>(panels: PackedPanels, x: Int8Rows, rows: usize, out: *mut f32, stride: usize) {
    let PackedPanels { first, count, panel_bytes, cols } = panels;
    let spec = const { F::SPEC };
    let num_tiles = rows.div_ceil(TILE_ROWS);
    let num_parts = num_tiles * cols.div_ceil(UNPACKED_COLS);
    let mut codes = MaybeUninit::<UnpackedCodes>::uninit();
    let to = codes.as_mut_ptr().cast::<u8>();
    for panel in (0..count - count % 2).step_by(2) {
        let pair = [first.wrapping_add(panel * panel_bytes), first.wrapping_add((panel + 1) * panel_bytes)];
        let mut part = 0;
        for first_col in (0..cols).step_by(UNPACKED_COLS) {
            let cols = UNPACKED_COLS.min(cols - first_col);
            let blocks = pair.map(|panel| panel.wrapping_add(first_col / spec.cols * const { F::SPEC.bytes() }));
            for p in 0..2 {
                // SAFETY: the columns lie inside the panel, and `codes` has room for them.
                unsafe { unpack_codes::<F>(blocks[p], cols, to.add(p * UNPACKED_COLS * PANEL_ROWS)) };
            }
            for i in 0..num_tiles {
                let row = i * rows / num_tiles;
                let share = part * 2 * panel_bytes / num_parts..(part + 1) * 2 * panel_bytes / num_parts;
                part += 1;
                let fetch = Fetch::new(pair[1].wrapping_add(panel_bytes), 0, share, cols / spec.group);
                let from = Panels { blocks, unpacked: to, sums_wait: first_col > 0 };
                // SAFETY: the rows of the tile exist, and so do the columns, which `codes` has.
                unsafe {
                    let x = x.skip_rows(row).skip_cols(first_col, spec.group);
                    let out = out.add(row * stride + panel * PANEL_ROWS);
                    match (i + 1) * rows / num_tiles - row {
                        4 => tile::<F, 2, 4, true>(from, cols, x, fetch, out, stride),
                        5 => tile::<F, 2, 5, true>(from, cols, x, fetch, out, stride),
                        6 => tile::<F, 2, 6, true>(from, cols, x, fetch, out, stride),
                        rows => unreachable!("{rows} rows in one of several tiles"),
                    }
                }
            }
        }
    }
    if count % 2 == 1 {
        let last = PackedPanels { first: first.wrapping_add((count - 1) * panel_bytes), count: 1, ..panels };
        // SAFETY: the caller's promise.
        unsafe { all_panels::<F>(last, x, rows, out.add((count - 1) * PANEL_ROWS), stride) };
    }
}

/// Whole blocks of one panel to a byte per code.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpack_codes<F: Format>(first: *const u8, cols: usize, to: *mut u8) {
    let spec = const { F::SPEC };
    for group in 0..cols / spec.group {
        // SAFETY: the caller's columns.
        unsafe {
            let block = first.add(group / spec.groups() * const { F::SPEC.bytes() });
            let codes =
                block.add(const { F::SPEC.codes_at() } + group % spec.groups() * const { F::SPEC.group_bytes() });
            for step in 0..spec.group / 4 {
                let to = to.add((group * spec.group + 4 * step) * PANEL_ROWS);
                _mm512_store_si512(to.cast(), step_codes(codes, spec, step));
            }
        }
    }
}

/// With few rows memory limits, and one stream is read fastest. With more, the next pair of panels is fetched while the tiles
/// of rows use one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn all_panels<F: Format>(panels: PackedPanels, x: Int8Rows, rows: usize, out: *mut f32, stride: usize) {
    let PackedPanels { first, count, panel_bytes, cols } = panels;
    let num_tiles = rows.div_ceil(TILE_ROWS);
    let most_together = if num_tiles == 1 { 1 } else { 2 };
    let mut panel = 0;
    while panel < count {
        let together = most_together.min(count - panel);
        let bytes = together * panel_bytes;
        let ahead = match num_tiles {
            1 if panel_bytes < SMALL_PANEL => 12 << 10,
            1 => 8 << 10,
            _ => bytes,
        };
        let a = first.wrapping_add(panel * panel_bytes);
        let b = a.wrapping_add(panel_bytes);
        for i in 0..num_tiles {
            let row = i * rows / num_tiles;
            let share = i * bytes / num_tiles..(i + 1) * bytes / num_tiles;
            let fetch = Fetch::new(a.wrapping_add(ahead), ahead, share, cols / const { F::SPEC.group });
            // SAFETY: the row and those of its tile exist, and so do the panels.
            unsafe {
                let (x, out) = (x.skip_rows(row), out.add(row * stride + panel * PANEL_ROWS));
                match (together, (i + 1) * rows / num_tiles - row) {
                    (1, 1) => tile::<F, 1, 1, false>(Panels::packed([a]), cols, x, fetch, out, stride),
                    (1, 2) => tile::<F, 1, 2, false>(Panels::packed([a]), cols, x, fetch, out, stride),
                    (1, 3) => tile::<F, 1, 3, false>(Panels::packed([a]), cols, x, fetch, out, stride),
                    (1, 4) => tile::<F, 1, 4, false>(Panels::packed([a]), cols, x, fetch, out, stride),
                    (1, 5) => tile::<F, 1, 5, false>(Panels::packed([a]), cols, x, fetch, out, stride),
                    (1, 6) => tile::<F, 1, 6, false>(Panels::packed([a]), cols, x, fetch, out, stride),
                    (2, 3) => tile::<F, 2, 3, false>(Panels::packed([a, b]), cols, x, fetch, out, stride),
                    (2, 4) => tile::<F, 2, 4, false>(Panels::packed([a, b]), cols, x, fetch, out, stride),
                    (2, 5) => tile::<F, 2, 5, false>(Panels::packed([a, b]), cols, x, fetch, out, stride),
                    (2, 6) => tile::<F, 2, 6, false>(Panels::packed([a, b]), cols, x, fetch, out, stride),
                    (panels, rows) => unreachable!("{rows} rows with {panels} panels"),
                }
            }
        }
        panel += together;
    }
}

/// What a tile asks memory for, a part with every group of columns.
///
/// Each tile asks for its share of what comes next, so that a few tiles of rows ask no faster than memory gives. The first tile
/// asks for all of it where codes have four bits: their products take longer than memory does, and the sums leave no
/// registers for more addresses.
struct Fetch {
    next: *const u8,
    bytes_per_group: usize,
    /// As many for every group: branches that go the same way each time cost nothing.
    lines_per_group: usize,
    /// From codes to what is fetched with them, for codes of four bits.
    ahead: usize,
}

impl Fetch {
    fn new(start: *const u8, ahead: usize, share: Range<usize>, groups: usize) -> Self {
        let bytes_per_group = share.len().div_ceil(groups);
        let lines_per_group = bytes_per_group.div_ceil(64);
        Self { next: start.wrapping_add(share.start), bytes_per_group, lines_per_group, ahead }
    }

    /// What comes with a group whose codes are these.
    #[inline(always)]
    fn group<F: Format>(&mut self, codes: &[*const u8]) {
        if const { F::SPEC.bits == 4 } {
            for codes in codes {
                prefetch(codes.wrapping_add(self.ahead), const { F::SPEC.group_bytes() });
            }
            return;
        }
        for line in 0..self.lines_per_group {
            prefetch(self.next.wrapping_add(64 * line), 64);
        }
        self.next = self.next.wrapping_add(self.bytes_per_group);
    }
}

/// `T` rows against `P` packed panels: twelve accumulators and as many totals are most of the registers. What goes over
/// panels are loops: closures would not be compiled for this tier.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<F: Format, const P: usize, const T: usize, const UNPACKED: bool>(
    panels: Panels<P>,
    cols: usize,
    x: Int8Rows,
    mut fetch: Fetch,
    out: *mut f32,
    stride: usize,
) {
    let spec = const { F::SPEC };
    let mut totals = [[_mm512_setzero_ps(); P]; T];
    if UNPACKED && panels.sums_wait {
        for t in 0..T {
            for p in 0..P {
                // SAFETY: the caller's T rows of P panels.
                totals[t][p] = unsafe { _mm512_loadu_ps(out.add(t * stride + p * PANEL_ROWS)) };
            }
        }
    }
    for b in 0..cols / spec.cols {
        let mut here = panels;
        for p in 0..P {
            here.blocks[p] = panels.blocks[p].wrapping_add(b * const { F::SPEC.bytes() });
        }
        for g in 0..spec.groups() {
            let at = b * spec.groups() + g;
            // SAFETY: block b lies inside the panels; `x` has T rows of `cols` columns.
            unsafe { add_products::<F, P, T, UNPACKED>(here, g, x, at, &mut fetch, &mut totals) };
        }
    }
    for t in 0..T {
        for p in 0..P {
            // SAFETY: the caller's T rows of P panels.
            unsafe { _mm512_storeu_ps(out.add(t * stride + p * PANEL_ROWS), totals[t][p]) };
        }
    }
}

/// Adds the products of the blocks' group `g`, the panels' group `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_products<F: Format, const P: usize, const T: usize, const UNPACKED: bool>(
    Panels { blocks, unpacked, .. }: Panels<P>,
    g: usize,
    x: Int8Rows,
    at: usize,
    fetch: &mut Fetch,
    totals: &mut [[__m512; P]; T],
) {
    let spec = const { F::SPEC };
    let shape = GroupShape::from(spec);
    // SAFETY: the caller's blocks and rows.
    unsafe {
        let mut codes = blocks;
        let mut acc = [[_mm512_setzero_si512(); P]; T];
        for p in 0..P {
            codes[p] = match UNPACKED {
                true => unpacked.add((p * UNPACKED_COLS + at * spec.group) * PANEL_ROWS),
                false => blocks[p].add(const { F::SPEC.codes_at() } + g * const { F::SPEC.group_bytes() }),
            };
        }
        fetch.group::<F>(&codes);
        for t in 0..T {
            acc[t] = [start(x, t, at, shape); P];
        }
        for step in 0..spec.group / 4 {
            let mut w = [_mm512_setzero_si512(); P];
            for p in 0..P {
                w[p] = match UNPACKED {
                    true => _mm512_load_si512(codes[p].add(step * 4 * PANEL_ROWS).cast()),
                    false => step_codes(codes[p], spec, step),
                };
            }
            let q = opaque(x.codes).add(at * spec.group + 4 * step);
            for t in 0..T {
                let q = broadcast4(q.add(t * x.code_stride));
                for p in 0..P {
                    acc[t][p] = _mm512_dpbusd_epi32(acc[t][p], w[p], q);
                }
            }
        }
        for p in 0..P {
            let scale = group_scale(blocks[p], spec, g);
            let min = if spec.min { group_min(blocks[p], spec, g) } else { _mm512_setzero_ps() };
            for t in 0..T {
                totals[t][p] = add_group(totals[t][p], acc[t][p], scale, min, x, t, at, shape);
            }
        }
    }
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn broadcast4(q: *const i8) -> __m512i {
    // SAFETY: the caller's four columns.
    _mm512_set1_epi32(unsafe { q.cast::<i32>().read_unaligned() })
}

/// What a group's products are added to: -offset * the sum of its activations.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn start(x: Int8Rows, row: usize, group: usize, shape: GroupShape) -> __m512i {
    if shape.offset == 0 {
        return _mm512_setzero_si512();
    }
    // SAFETY: the caller's row and group exist.
    let neg_sum = _mm512_set1_epi32(unsafe { *x.neg_sums.add(row * x.sum_stride + group) });
    _mm512_sll_epi32(neg_sum, _mm_cvtsi32_si128(shape.offset.trailing_zeros() as i32))
}

/// sum + acc * scales + minimum * the sum of the activations: the same operations wherever a group ends.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[allow(clippy::too_many_arguments, reason = "inlined; a struct of registers would only rename them")]
unsafe fn add_group(
    sum: __m512,
    acc: __m512i,
    scale: __m512,
    min: __m512,
    x: Int8Rows,
    row: usize,
    group: usize,
    shape: GroupShape,
) -> __m512 {
    // SAFETY: the caller's row and group exist.
    unsafe {
        let x_scale = *x.scales.add(row * x.scale_stride + group * shape.group / 32);
        let factor = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale));
        let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), factor, sum);
        if !shape.min {
            return sum;
        }
        _mm512_fmadd_ps(min, _mm512_set1_ps(*x.scaled_sums.add(row * x.sum_stride + group)), sum)
    }
}
