//! Products with int8 activations. Codes are vpdpbusd's unsigned operand, four columns of an activation row
//! its signed one, broadcast: a register accumulates 16 rows of weights, and nothing is summed across lanes.

use std::arch::x86_64::*;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::int8_rows;
use super::unpack::{add_columns, decode_columns, group_min, group_scale, step_codes, zeros};
use crate::kernels::matmul::{GroupShape, Int8Rows, PackedPanels, PanelOutliers};
use crate::kernels::simd::{opaque, prefetch, prefetch_once};
use crate::quant::{BlockSpec, Format, Layout, PANEL_ROWS, with_format};

/// Most rows of a tile of two panels.
const TILE_ROWS: usize = 6;

/// Most rows of a tile of one panel, where there are several tiles.
pub const SINGLE_ROWS: usize = 8;

/// The same where there is one.
const LONE_ROWS: usize = 10;

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

/// Panels of up to this many bytes stay in L1, with what is fetched meanwhile, until outliers have read their columns.
const KEPT_PANEL: usize = 32 << 10;

/// From what a tile of a single panel reads to what it asks for, in bytes.
pub fn single_ahead(num_tiles: usize, panel_bytes: usize) -> usize {
    match num_tiles {
        1 if panel_bytes < SMALL_PANEL => 12 << 10,
        1 => 8 << 10,
        _ => panel_bytes,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn packed_int8(
    layout: Layout,
    matrices: &[PackedPanels],
    x: Int8Rows,
    rows: usize,
    stride: usize,
    outliers: Option<PanelOutliers<'_>>,
) {
    if layout == Layout::I8Row {
        // SAFETY: the caller's promise.
        return unsafe { int8_rows::multiply(matrices, x, rows, stride) };
    }
    let rows = &mut Rows { x, count: rows, stride, outliers };
    // SAFETY: the caller's promise.
    with_format!(layout, F => unsafe { multiply::<F>(matrices, rows) }).expect("dense panels have no codes");
}

/// What panels are multiplied with, and where from one row to the next their outputs lie.
struct Rows<'a> {
    x: Int8Rows,
    count: usize,
    stride: usize,
    outliers: Option<PanelOutliers<'a>>,
}

impl Rows<'_> {
    /// Adds what outliers make of a panel to its outputs.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn add_outliers<F: Format>(&mut self, panel: *const u8, out: *mut f32) {
        if let Some(PanelOutliers { rows, places, columns }) = &mut self.outliers {
            // SAFETY: the panel has these columns, and `out` its outputs of these rows.
            unsafe {
                decode_columns::<F>(panel, places, columns);
                add_columns(columns, rows, out, self.stride);
            }
        }
    }
}

/// Up to this many rows, panels are read one by one: memory gives most to one stream that is used once. Tiles of pairs need fewer
/// loads, but the first of two or three of them waits for what it fetches for all. Codes of five to seven bits gain nothing, those
/// with a minimum per group most.
const fn most_single_rows(spec: &BlockSpec) -> usize {
    match spec.bits {
        4 if spec.min && !spec.sub_scales && !spec.shares_scale() => 2 * SINGLE_ROWS,
        4 | 8 => SINGLE_ROWS,
        _ => TILE_ROWS,
    }
}

/// With few rows memory limits, and one stream is read fastest. With more, the next pair of panels is fetched while the tiles
/// of rows use one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn multiply<F: Format>(matrices: &[PackedPanels], rows: &mut Rows<'_>) {
    // SAFETY: the caller's promise.
    unsafe {
        if rows.count <= const { most_single_rows(&F::SPEC) } {
            for panels in matrices {
                single_panels::<F>(*panels, rows);
            }
            return;
        }
        let (pairs, rest) = Pairs::of(matrices);
        match const { 4 < F::SPEC.bits && F::SPEC.bits < 8 } && rows.count > 4 * TILE_ROWS {
            true => unpacked_pairs::<F>(pairs, rows),
            false => packed_pairs::<F>(pairs, rows),
        }
        single_panels::<F>(rest, rows);
    }
}

/// Two panels, and where their outputs begin.
#[derive(Clone, Copy)]
pub struct Pair {
    pub panels: [*const u8; 2],
    pub out: [*mut f32; 2],
}

/// Pairs of neighbours, or of the same panels of two matrices.
#[derive(Clone, Copy)]
pub struct Pairs {
    first: Pair,
    pub count: usize,
    /// Panels from a pair to the next.
    pub step: usize,
    pub panel_bytes: usize,
    pub cols: usize,
}

impl Pairs {
    /// With what remains.
    pub fn of(matrices: &[PackedPanels]) -> (Self, PackedPanels) {
        let a = matrices[0];
        let (b, step) = match matrices {
            [_, b] => (*b, 1),
            _ => (a.skip(1), 2),
        };
        let first = Pair { panels: [a.first, b.first], out: [a.out, b.out] };
        let count = a.count / step;
        (Self { first, count, step, panel_bytes: a.panel_bytes, cols: a.cols }, a.skip(count * step))
    }

    pub fn at(&self, i: usize) -> Pair {
        let Pair { panels, out } = self.first;
        Pair {
            panels: panels.map(|panel| panel.wrapping_add(i * self.step * self.panel_bytes)),
            out: out.map(|out| out.wrapping_add(i * self.step * PANEL_ROWS)),
        }
    }
}

impl PackedPanels {
    /// Those from panel `count` on.
    pub fn skip(self, count: usize) -> Self {
        Self {
            first: self.first.wrapping_add(count * self.panel_bytes),
            count: self.count.saturating_sub(count),
            out: self.out.wrapping_add(count * PANEL_ROWS),
            ..self
        }
    }
}

/// The rows of tile `i` of `num`: three to six where there are several. The first, which fetches most, has no fewer than others.
/// Tiles of five are slow where sums of a block take a third of the registers, so that the others have even numbers there.
fn rows_of<F: Format>(i: usize, num: usize, rows: usize) -> Range<usize> {
    let start = |i: usize| {
        let start = (i * rows).div_ceil(num);
        if const { F::SPEC.shares_scale() } { start.next_multiple_of(2).min(rows) } else { start }
    };
    start(i)..start(i + 1)
}

/// Part `i` of `len` things in `num` parts.
pub fn part(i: usize, num: usize, len: usize) -> Range<usize> {
    i * len / num..(i + 1) * len / num
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn single_panels<F: Format>(panels: PackedPanels, all: &mut Rows<'_>) {
    let Rows { x, count: rows, stride, .. } = *all;
    let PackedPanels { count, panel_bytes, cols, .. } = panels;
    let num_tiles = if rows <= LONE_ROWS { 1 } else { rows.div_ceil(SINGLE_ROWS) };
    let ahead = single_ahead(num_tiles, panel_bytes);
    let once = num_tiles == 1 && (all.outliers.is_none() || panel_bytes <= KEPT_PANEL);
    for panel in 0..count {
        let PackedPanels { first, out, .. } = panels.skip(panel);
        for i in 0..num_tiles {
            let here = rows_of::<F>(i, num_tiles, rows);
            let share = part(i, num_tiles, panel_bytes);
            let fetch = Fetch::new([first], ahead, share, cols / const { F::SPEC.group }).read_once(once);
            let from = Panels::packed([first]);
            // SAFETY: the rows of the tile exist, and so does the panel.
            unsafe {
                let (x, out) = (x.skip_rows(here.start), [out.add(here.start * stride)]);
                match here.len() {
                    1 => tile::<F, 1, 1, false>(from, cols, x, fetch, out, stride),
                    2 => tile::<F, 1, 2, false>(from, cols, x, fetch, out, stride),
                    3 => tile::<F, 1, 3, false>(from, cols, x, fetch, out, stride),
                    4 => tile::<F, 1, 4, false>(from, cols, x, fetch, out, stride),
                    5 => tile::<F, 1, 5, false>(from, cols, x, fetch, out, stride),
                    6 => tile::<F, 1, 6, false>(from, cols, x, fetch, out, stride),
                    7 => tile::<F, 1, 7, false>(from, cols, x, fetch, out, stride),
                    8 => tile::<F, 1, 8, false>(from, cols, x, fetch, out, stride),
                    9 => tile::<F, 1, 9, false>(from, cols, x, fetch, out, stride),
                    10 => tile::<F, 1, 10, false>(from, cols, x, fetch, out, stride),
                    rows => unreachable!("a tile of {rows} rows"),
                }
            }
        }
        // SAFETY: the panel's outputs of all rows.
        unsafe { all.add_outliers::<F>(first, out) };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn packed_pairs<F: Format>(pairs: Pairs, all: &mut Rows<'_>) {
    let Rows { x, count: rows, stride, .. } = *all;
    let Pairs { count, step, panel_bytes, cols, .. } = pairs;
    let num_tiles = rows.div_ceil(TILE_ROWS);
    for i in 0..count {
        let Pair { panels, out } = pairs.at(i);
        for i in 0..num_tiles {
            let here = rows_of::<F>(i, num_tiles, rows);
            let share = part(i, num_tiles, panel_bytes);
            let fetch = Fetch::new(panels, step * panel_bytes, share, cols / const { F::SPEC.group });
            let from = Panels::packed(panels);
            // SAFETY: the rows of the tile exist, and so do the panels.
            unsafe {
                let (x, out) = (x.skip_rows(here.start), out.map(|out| out.wrapping_add(here.start * stride)));
                pair_tile::<F, false>(here.len(), from, cols, x, fetch, out, stride);
            }
        }
        for p in 0..2 {
            // SAFETY: the panels' outputs of all rows.
            unsafe { all.add_outliers::<F>(panels[p], out[p]) };
        }
    }
}

/// A tile of a pair where there are several: see `rows_of`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn pair_tile<F: Format, const UNPACKED: bool>(
    rows: usize,
    from: Panels<2>,
    cols: usize,
    x: Int8Rows,
    fetch: Fetch<2>,
    out: [*mut f32; 2],
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            3 => tile::<F, 2, 3, UNPACKED>(from, cols, x, fetch, out, stride),
            4 => tile::<F, 2, 4, UNPACKED>(from, cols, x, fetch, out, stride),
            5 => tile::<F, 2, 5, UNPACKED>(from, cols, x, fetch, out, stride),
            6 => tile::<F, 2, 6, UNPACKED>(from, cols, x, fetch, out, stride),
            rows => unreachable!("{rows} rows in one of several tiles"),
        }
    }
}

/// Codes of five and six bits take so long to unpack that several tiles share it: pairs of panels are unpacked to L1, a
/// chunk of columns at a time, and sums wait in `out` for the next chunk.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn unpacked_pairs<F: Format>(pairs: Pairs, all: &mut Rows<'_>) {
    let Rows { x, count: rows, stride, .. } = *all;
    let Pairs { count, step, panel_bytes, cols, .. } = pairs;
    let spec = const { F::SPEC };
    let num_tiles = rows.div_ceil(TILE_ROWS);
    let num_chunks = cols.div_ceil(UNPACKED_COLS);
    let mut codes = MaybeUninit::<UnpackedCodes>::uninit();
    let to = codes.as_mut_ptr().cast::<u8>();
    for (i, chunk) in (0..count).flat_map(|i| (0..num_chunks).map(move |chunk| (i, chunk))) {
        let Pair { panels, out } = pairs.at(i);
        let first_col = chunk * UNPACKED_COLS;
        let cols = UNPACKED_COLS.min(cols - first_col);
        let blocks = panels.map(|panel| panel.wrapping_add(first_col / spec.cols * const { F::SPEC.bytes() }));
        for p in 0..2 {
            // SAFETY: the columns lie inside the panel, and `codes` has room for them.
            unsafe { unpack_codes::<F>(blocks[p], cols, to.add(p * UNPACKED_COLS * PANEL_ROWS)) };
        }
        for i in 0..num_tiles {
            let here = rows_of::<F>(i, num_tiles, rows);
            let share = part(chunk * num_tiles + i, num_chunks * num_tiles, panel_bytes);
            let fetch = Fetch::new(panels, step * panel_bytes, share, cols / spec.group);
            let from = Panels { blocks, unpacked: to, sums_wait: chunk > 0 };
            // SAFETY: the rows of the tile exist, and so do the columns, which `codes` has.
            unsafe {
                let x = x.skip_rows(here.start).skip_cols(first_col, spec.group);
                let out = out.map(|out| out.wrapping_add(here.start * stride));
                pair_tile::<F, true>(here.len(), from, cols, x, fetch, out, stride);
            }
        }
        if chunk + 1 == num_chunks {
            for p in 0..2 {
                // SAFETY: the panels' outputs of all rows.
                unsafe { all.add_outliers::<F>(panels[p], out[p]) };
            }
        }
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

/// What a tile asks memory for, a part with every group of columns.
///
/// Each tile asks for its share of what comes next, so that a few tiles of rows ask no faster than memory gives. The first tile
/// asks for all of it where codes have four bits: their products take longer than memory does, and the sums leave no
/// registers for more addresses.
pub struct Fetch<const P: usize> {
    next: [*const u8; P],
    bytes_per_group: usize,
    /// As many for every group: branches that go the same way each time cost nothing.
    lines_per_group: usize,
    /// From what is read to what is fetched with it, for codes of four bits.
    ahead: usize,
    /// Nothing reads it again before the next step.
    once: bool,
}

impl<const P: usize> Fetch<P> {
    /// For this share of what lies `ahead` of each panel.
    pub fn new(panels: [*const u8; P], ahead: usize, share: Range<usize>, groups: usize) -> Self {
        let bytes_per_group = share.len().div_ceil(groups);
        let lines_per_group = bytes_per_group.div_ceil(64);
        let next = panels.map(|panel| panel.wrapping_add(ahead + share.start));
        Self { next, bytes_per_group, lines_per_group, ahead, once: false }
    }

    /// Whether nothing reads it again soon: see `prefetch_once`.
    pub fn read_once(self, once: bool) -> Self {
        Self { once, ..self }
    }

    /// What comes with group `g` of these blocks, whose codes are these.
    #[inline(always)]
    fn group<F: Format>(&mut self, codes: &[*const u8; P], blocks: &[*const u8; P], g: usize) {
        if const { F::SPEC.bits != 4 } {
            return self.lines();
        }
        // Factors of several lines are not left to the hardware.
        if P == 1 && const { F::SPEC.codes_at() > 64 } {
            let bytes = const { F::SPEC.bytes() / F::SPEC.groups() };
            for p in 0..P {
                self.ask(blocks[p].wrapping_add(self.ahead + g * bytes), bytes);
            }
            return;
        }
        for p in 0..P {
            self.ask(codes[p].wrapping_add(self.ahead), const { F::SPEC.group_bytes() });
        }
    }

    /// Whether a line of each panel is enough for every group: `line` then does what `lines` does, without a loop.
    pub fn is_lean(&self) -> bool {
        self.lines_per_group == 1
    }

    #[inline(always)]
    pub fn line(&mut self) {
        for p in 0..P {
            self.ask(self.next[p], 64);
            self.next[p] = self.next[p].wrapping_add(self.bytes_per_group);
        }
    }

    /// The same for codes of more bits.
    #[inline(always)]
    pub fn lines(&mut self) {
        self.lines_of(P);
    }

    /// The same for the first `count` panels.
    #[inline(always)]
    pub fn lines_of(&mut self, count: usize) {
        for p in 0..count {
            for line in 0..self.lines_per_group {
                self.ask(self.next[p].wrapping_add(64 * line), 64);
            }
            self.next[p] = self.next[p].wrapping_add(self.bytes_per_group);
        }
    }

    // Tiles of two panels are always several, and have no register for the choice.
    #[inline(always)]
    fn ask(&self, p: *const u8, bytes: usize) {
        if P == 1 && self.once { prefetch_once(p, bytes) } else { prefetch(p, bytes) }
    }
}

/// `T` rows against `P` packed panels: twelve accumulators and as many totals are most of the registers. What goes over
/// panels are loops: closures would not be compiled for this tier.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn tile<F: Format, const P: usize, const T: usize, const UNPACKED: bool>(
    panels: Panels<P>,
    cols: usize,
    x: Int8Rows,
    mut fetch: Fetch<P>,
    out: [*mut f32; P],
    stride: usize,
) {
    let spec = const { F::SPEC };
    let mut totals = [[_mm512_setzero_ps(); P]; T];
    if UNPACKED && panels.sums_wait {
        for t in 0..T {
            for p in 0..P {
                // SAFETY: the caller's T rows of P panels.
                totals[t][p] = unsafe { _mm512_loadu_ps(out[p].add(t * stride)) };
            }
        }
    }
    for b in 0..cols / spec.cols {
        let mut here = panels;
        for p in 0..P {
            here.blocks[p] = panels.blocks[p].wrapping_add(b * const { F::SPEC.bytes() });
        }
        if const { F::SPEC.shares_scale() } {
            let mut sums = [[_mm512_setzero_ps(); P]; T];
            for g in 0..spec.groups() {
                let at = b * spec.groups() + g;
                // SAFETY: block b lies inside the panels; `x` has T rows of `cols` columns.
                unsafe { add_products::<F, P, T, UNPACKED>(here, g, x, at, &mut fetch, &mut sums) };
            }
            for p in 0..P {
                // SAFETY: as above.
                let scale = unsafe { group_scale(here.blocks[p], spec, 0) };
                for t in 0..T {
                    totals[t][p] = _mm512_fmadd_ps(sums[t][p], scale, totals[t][p]);
                }
            }
            continue;
        }
        for g in 0..spec.groups() {
            let at = b * spec.groups() + g;
            // SAFETY: as above.
            unsafe { add_products::<F, P, T, UNPACKED>(here, g, x, at, &mut fetch, &mut totals) };
        }
    }
    for t in 0..T {
        for p in 0..P {
            // SAFETY: the caller's T rows of P panels.
            unsafe { _mm512_storeu_ps(out[p].add(t * stride), totals[t][p]) };
        }
    }
}

/// Adds the products of the blocks' group `g`, the panels' group `at`; where a block's groups share their scale, without it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
unsafe fn add_products<F: Format, const P: usize, const T: usize, const UNPACKED: bool>(
    Panels { blocks, unpacked, .. }: Panels<P>,
    g: usize,
    x: Int8Rows,
    at: usize,
    fetch: &mut Fetch<P>,
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
        fetch.group::<F>(&codes, &blocks, g);
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
            let (scale, min) = match (spec.shares_scale(), spec.min) {
                (true, true) => (None, zeros(blocks[p], spec)),
                (true, false) => (None, _mm512_setzero_ps()),
                (false, true) => (Some(group_scale(blocks[p], spec, g)), group_min(blocks[p], spec, g)),
                (false, false) => (Some(group_scale(blocks[p], spec, g)), _mm512_setzero_ps()),
            };
            for t in 0..T {
                totals[t][p] = add_group(totals[t][p], acc[t][p], scale, min, x, t, at, shape);
            }
        }
    }
}

/// Four activations in every lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
pub unsafe fn broadcast4(q: *const i8) -> __m512i {
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

/// sum + acc * scales + minimum * the sum of the activations: the same operations wherever a group ends. `scale` is that of the
/// weights. None: 1.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
#[allow(clippy::too_many_arguments, reason = "inlined; a struct of registers would only rename them")]
unsafe fn add_group(
    sum: __m512,
    acc: __m512i,
    scale: Option<__m512>,
    min: __m512,
    x: Int8Rows,
    row: usize,
    group: usize,
    shape: GroupShape,
) -> __m512 {
    // SAFETY: the caller's row and group exist.
    unsafe {
        let x_scale = _mm512_set1_ps(*x.scales.add(row * x.scale_stride + group * shape.group / 32));
        let factor = match scale {
            Some(scale) => _mm512_mul_ps(scale, x_scale),
            None => x_scale,
        };
        let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), factor, sum);
        if !shape.min {
            return sum;
        }
        _mm512_fmadd_ps(min, _mm512_set1_ps(*x.scaled_sums.add(row * x.sum_stride + group)), sum)
    }
}
