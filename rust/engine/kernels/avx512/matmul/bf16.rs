//! Products with bf16 activations: vdpbf16ps adds two columns' products to sixteen rows' sums. Weights are codes or numbers of
//! at most eight significant bits, exact as bf16 (but for f16, which is rounded), and are brought into pairs a chunk of columns at a
//! time, in L1, for all rows.

use std::arch::x86_64::*;
use std::ops::Range;

use super::int8::{Fetch, part, single_ahead};
use super::unpack::{group_min, group_scale, step_codes};
use super::{load16, store16};
use crate::kernels::matmul::{
    BF16_PANELS, Bf16Kernels, Bf16RowMut, Bf16Sums, Bf16View, GROUP, NextChunks, PackedPanels, PairChunk,
};
use crate::kernels::simd::{opaque, prefetch, prefetch_once};
use crate::quant::{BlockSpec, Format, Layout, PANEL_ROWS, ROW_OFFSET, with_format};

pub static KERNELS: Bf16Kernels = Bf16Kernels { round, fill, tile, few, most_few_rows };

/// Bytes that dense panels are prefetched ahead.
const AHEAD: usize = 4096;

/// Columns after which a tile of dense panels asks memory for more.
const FETCH_COLS: usize = 8;

/// Most rows of a tile of one or two panels.
const TILE_ROWS: usize = 12;

/// Most rows of a tile of one panel that is read without a chunk in between.
const STRAIGHT_ROWS: usize = 24;

/// Two columns of a panel.
const PAIR: usize = 2 * PANEL_ROWS;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn round(x: &[f32], out: Bf16RowMut) {
    for (group, x) in x.chunks(GROUP).enumerate() {
        let mask = u32::MAX >> (GROUP - x.len());
        // SAFETY: the masks are those of the group's columns; `out` has the group.
        unsafe {
            let low = _mm512_maskz_loadu_ps(mask as __mmask16, x.as_ptr());
            let high = _mm512_maskz_loadu_ps((mask >> 16) as __mmask16, x.as_ptr().wrapping_add(16));
            let numbers = _mm512_cvtne2ps_pbh(high, low);
            let pairs = _mm512_dpbf16_ps(_mm512_setzero_ps(), numbers, bf16s(_mm512_set1_epi16(ONE as i16)));
            let sums = [_mm512_mask_reduce_add_ps(0x00ff, pairs), _mm512_mask_reduce_add_ps(0xff00, pairs)];
            *out.sums[0].add(group) = sums[0] + sums[1];
            *out.sums[1].add(2 * group) = sums[0];
            *out.sums[1].add(2 * group + 1) = sums[1];
            const SWAP_MIDDLE: i32 = 0b11_01_10_00;
            let numbers = _mm512_shufflelo_epi16::<SWAP_MIDDLE>(words(numbers));
            let numbers = _mm512_shufflehi_epi16::<SWAP_MIDDLE>(numbers);
            _mm512_storeu_si512(out.numbers.add(group * GROUP).cast(), numbers);
        }
    }
}

/// 1 as bf16.
const ONE: u16 = 0x3f80;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn bf16s(words: __m512i) -> __m512bh {
    // SAFETY: 32 bf16 are any 64 bytes.
    unsafe { std::mem::transmute(words) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn words(numbers: __m512bh) -> __m512i {
    // SAFETY: any 64 bytes are words.
    unsafe { std::mem::transmute(numbers) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn fill(layout: Layout, first: *const u8, cols: usize, out: &mut PairChunk) {
    // SAFETY: the caller's columns lie inside the panel.
    unsafe {
        match layout {
            Layout::Bf16 => fill_dense::<false>(first, cols, out),
            Layout::F16 => fill_dense::<true>(first, cols, out),
            Layout::I8Row => fill_by_row(first, cols, out),
            _ => with_format!(layout, F => fill_blocks::<F>(first, cols, out)).expect("no other layouts take bf16"),
        }
    }
}

/// Two pairs of columns, where those of columns 4 four .. 4 four + 4 go.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn store_pairs(out: &mut PairChunk, four: usize, pairs: [__m512i; 2]) {
    let (to, _) = out.pairs[four * 2 * PAIR..].split_at_mut(2 * PAIR);
    // SAFETY: `to` has two pairs, on cache lines.
    unsafe {
        _mm512_store_si512(to.as_mut_ptr().cast(), pairs[0]);
        _mm512_store_si512(to.as_mut_ptr().add(PAIR).cast(), pairs[1]);
    }
}

/// Numbers of sixteen bits, bf16 or f16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn fill_dense<const F16: bool>(first: *const u8, cols: usize, out: &mut PairChunk) {
    for four in 0..cols.div_ceil(4) {
        // SAFETY: the panel has these columns.
        store_pairs(out, four, unsafe { four_of::<F16>(first.wrapping_add(four * 4 * PAIR), cols - 4 * four) });
    }
}

/// The pairs of four columns, of which `left` are the panel's at least; zeros follow.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn four_of<const F16: bool>(at: *const u8, left: usize) -> [__m512i; 2] {
    if left >= 4 {
        // SAFETY: the panel has four columns.
        return unsafe {
            pairs_of::<F16>([_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(2 * PAIR).cast())])
        };
    }
    let mask = u64::MAX >> (64 - left * PANEL_ROWS);
    // SAFETY: the masks are those of the columns that are left.
    unsafe {
        pairs_of::<F16>([
            _mm512_maskz_loadu_epi16(mask as __mmask32, at.cast()),
            _mm512_maskz_loadu_epi16((mask >> PAIR) as __mmask32, at.wrapping_add(2 * PAIR).cast()),
        ])
    }
}

/// Columns 0 and 2, and 1 and 3, of four that lie one after the other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn pairs_of<const F16: bool>(columns: [__m512i; 2]) -> [__m512i; 2] {
    let [a, b] = columns;
    if F16 {
        return [
            rounded_pair(_mm512_castsi512_si256(a), _mm512_castsi512_si256(b)),
            rounded_pair(_mm512_extracti64x4_epi64::<1>(a), _mm512_extracti64x4_epi64::<1>(b)),
        ];
    }
    let (even, odd) = (interleaved(0, PAIR), interleaved(PANEL_ROWS, PAIR + PANEL_ROWS));
    [_mm512_permutex2var_epi16(a, even, b), _mm512_permutex2var_epi16(a, odd, b)]
}

/// Two columns of f16, rounded.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn rounded_pair(low: __m256i, high: __m256i) -> __m512i {
    let rounded = _mm512_cvtne2ps_pbh(_mm512_cvtph_ps(high), _mm512_cvtph_ps(low));
    _mm512_permutexvar_epi16(interleaved(0, PANEL_ROWS), words(rounded))
}

/// Words from `low` on, each with one from `high` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn interleaved(low: usize, high: usize) -> __m512i {
    let rows = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let both = _mm512_or_si512(rows, _mm512_slli_epi32::<16>(rows));
    _mm512_add_epi32(both, _mm512_set1_epi32((high << 16 | low) as i32))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn fill_by_row(first: *const u8, cols: usize, out: &mut PairChunk) {
    for four in 0..cols / 4 {
        let at = first.wrapping_add(four * 4 * PANEL_ROWS);
        // SAFETY: the panel has these columns.
        let codes = unsafe { _mm512_loadu_si512(at.cast()) };
        store_pairs(out, four, pairs_of_bytes(codes, i32::from(ROW_OFFSET)));
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn fill_blocks<F: Format>(first: *const u8, cols: usize, out: &mut PairChunk) {
    let spec = const { F::SPEC };
    let table = Table::of::<F>();
    for b in 0..cols / spec.cols {
        let block = first.wrapping_add(b * const { F::SPEC.bytes() });
        for g in 0..spec.groups() {
            let at = b * spec.groups() + g;
            let codes = block.wrapping_add(const { F::SPEC.codes_at() } + g * const { F::SPEC.group_bytes() });
            // SAFETY: block b lies inside the panel, and its columns inside the chunk.
            unsafe {
                store16(&mut out.scales[at], group_scale(block, spec, g));
                if spec.min {
                    store16(&mut out.mins[at], group_min(block, spec, g));
                }
                for step in 0..spec.group / 4 {
                    store_pairs(out, at * spec.group / 4 + step, table.pairs(codes, spec, step));
                }
            }
        }
    }
}

/// What codes stand for, as bf16.
#[derive(Clone, Copy)]
struct Table([__m512i; 2]);

impl Table {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
    fn of<F: Format>() -> Self {
        let numbers = const { &numbers_of(&F::SPEC) };
        // SAFETY: 32 words each.
        unsafe {
            Self([_mm512_loadu_si512(numbers.as_ptr().cast()), _mm512_loadu_si512(numbers[PAIR..].as_ptr().cast())])
        }
    }

    /// The pairs of columns 4 step .. 4 step + 4 of a group.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
    unsafe fn pairs(&self, codes: *const u8, spec: BlockSpec, step: usize) -> [__m512i; 2] {
        let Self(table) = self;
        if spec.bits == 4 {
            // SAFETY: the caller's columns. What of other nibbles is in an index does not matter: the table repeats itself.
            let line = unsafe { _mm512_loadu_si512(codes.add(step / 2 * 64).cast()) };
            let (even, odd) = match step % 2 {
                0 => (line, _mm512_srli_epi16::<8>(line)),
                _ => (_mm512_srli_epi16::<4>(line), _mm512_srli_epi16::<12>(line)),
            };
            return [_mm512_permutexvar_epi16(even, table[0]), _mm512_permutexvar_epi16(odd, table[0])];
        }
        // SAFETY: the caller's columns.
        let bytes = unsafe { step_codes(codes, spec, step) };
        if spec.bits == 8 {
            return pairs_of_bytes(bytes, spec.offset);
        }
        // An index has six bits at most.
        let odd = _mm512_srli_epi16::<8>(bytes);
        match spec.bits {
            5 => [_mm512_permutexvar_epi16(bytes, table[0]), _mm512_permutexvar_epi16(odd, table[0])],
            _ => [
                _mm512_permutex2var_epi16(table[0], bytes, table[1]),
                _mm512_permutex2var_epi16(table[0], odd, table[1]),
            ],
        }
    }
}

/// Of codes of up to six bits; those of four bits repeat.
const fn numbers_of(spec: &BlockSpec) -> [u16; 2 * PAIR] {
    let mut numbers = [0; 2 * PAIR];
    let mut i = 0;
    while i < numbers.len() {
        let code = match (spec.bits, spec.values) {
            (4, Some(values)) => values[i % 16] as i32,
            (4, None) => i as i32 % 16,
            (5, _) => i as i32 % 32,
            _ => i as i32,
        };
        numbers[i] = (((code - spec.offset) as f32).to_bits() >> 16) as u16;
        i += 1;
    }
    numbers
}

/// Four codes of eight bits in each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
fn pairs_of_bytes(bytes: __m512i, offset: i32) -> [__m512i; 2] {
    let mut numbers = [_mm512_setzero_si512(); 4];
    for (i, number) in numbers.iter_mut().enumerate() {
        let byte = _mm512_srl_epi32(bytes, _mm_cvtsi32_si128(8 * i as i32));
        let code = _mm512_sub_epi32(_mm512_and_si512(byte, _mm512_set1_epi32(255)), _mm512_set1_epi32(offset));
        *number = _mm512_castps_si512(_mm512_cvtepi32_ps(code));
    }
    // Whole numbers of eight bits leave the lower halves of float32 empty.
    let [a, b, c, d] = numbers;
    [_mm512_or_si512(_mm512_srli_epi32::<16>(a), c), _mm512_or_si512(_mm512_srli_epi32::<16>(b), d)]
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn tile(
    layout: Layout,
    chunks: &[PairChunk],
    cols: usize,
    x: Bf16View,
    next: NextChunks,
    sums: &mut [Bf16Sums],
) {
    // SAFETY: the caller's promise.
    unsafe {
        match layout.block() {
            None => panels::<0, false>(chunks, cols, x, next, sums),
            Some(spec) => match (spec.group, spec.min) {
                (16, false) => panels::<16, false>(chunks, cols, x, next, sums),
                (16, true) => panels::<16, true>(chunks, cols, x, next, sums),
                (_, false) => panels::<32, false>(chunks, cols, x, next, sums),
                (_, true) => panels::<32, true>(chunks, cols, x, next, sums),
            },
        }
    }
}

/// Calls a tile of so many rows, even ones above four.
macro_rules! tile_of {
    ($rows:expr, $P:literal: $($T:literal)+ => $args:tt) => {
        match $rows {
            $($T => tile_rows::<$P, $T, SCALE_COLS, MIN> $args,)+
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn panels<const SCALE_COLS: usize, const MIN: bool>(
    chunks: &[PairChunk],
    cols: usize,
    x: Bf16View,
    next: NextChunks,
    sums: &mut [Bf16Sums],
) {
    let most = if chunks.len() > 2 { 4 } else { TILE_ROWS };
    let mut first = 0;
    while first < sums.len() {
        let left = sums.len() - first;
        let rows = match left.div_ceil(left.div_ceil(most)) {
            even if even > 4 => even.next_multiple_of(2).min(left) & !1,
            few => few,
        };
        let share = part(first, sums.len(), next.bytes).start..part(first + rows, sums.len(), next.bytes).start;
        let fetch =
            Fetch::new(next.panels, 0, share, cols.div_ceil(if SCALE_COLS == 0 { FETCH_COLS } else { SCALE_COLS }));
        // SAFETY: the rows exist.
        unsafe {
            let (x, sums) = (x.skip_rows(first), &mut sums[first..first + rows]);
            match chunks.len() {
                1 => tile_of!(rows, 1: 1 2 3 4 6 8 10 12 => (chunks, cols, x, fetch, sums)),
                2 => tile_of!(rows, 2: 1 2 3 4 6 8 10 12 => (chunks, cols, x, fetch, sums)),
                3 => tile_of!(rows, 3: 1 2 3 4 => (chunks, cols, x, fetch, sums)),
                _ => tile_of!(rows, 4: 1 2 3 4 => (chunks, cols, x, fetch, sums)),
            }
        }
        first += rows;
    }
}

/// `T` rows against `P` panels. `SCALE_COLS` columns share a scale, and with `MIN` a minimum; 0: there are no scales.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn tile_rows<const P: usize, const T: usize, const SCALE_COLS: usize, const MIN: bool>(
    chunks: &[PairChunk],
    cols: usize,
    x: Bf16View,
    mut fetch: Fetch<BF16_PANELS>,
    sums: &mut [Bf16Sums],
) {
    let mut totals = [[_mm512_setzero_ps(); P]; T];
    for t in 0..T {
        for p in 0..P {
            totals[t][p] = load16(&sums[t][p]);
        }
    }
    // SAFETY: the chunks and the T rows have these columns, with zeros up to whole fours.
    unsafe {
        match cols.checked_div(SCALE_COLS) {
            None => {
                for first in (0..cols).step_by(FETCH_COLS) {
                    fetch.lines_of(P);
                    let last = cols.min(first + FETCH_COLS).next_multiple_of(4);
                    add_pairs(chunks, first / 2..last / 2, x, &mut totals);
                }
            }
            Some(groups) => {
                for g in 0..groups {
                    fetch.lines_of(P);
                    let mut acc = [[_mm512_setzero_ps(); P]; T];
                    add_pairs(chunks, g * SCALE_COLS / 2..(g + 1) * SCALE_COLS / 2, x, &mut acc);
                    for p in 0..P {
                        let (scale, min) = (load16(&chunks[p].scales[g]), load16(&chunks[p].mins[g]));
                        for t in 0..T {
                            let min = MIN.then_some(min);
                            totals[t][p] = add_group(totals[t][p], acc[t][p], scale, min, x, t, g);
                        }
                    }
                }
            }
        }
    }
    for t in 0..T {
        for p in 0..P {
            store16(&mut sums[t][p], totals[t][p]);
        }
    }
}

/// total + acc * scale + minimum * the sum of the activations: wherever a group ends.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn add_group(
    total: __m512,
    acc: __m512,
    scale: __m512,
    min: Option<__m512>,
    x: Bf16View,
    row: usize,
    group: usize,
) -> __m512 {
    let total = _mm512_fmadd_ps(acc, scale, total);
    match min {
        // SAFETY: the caller's row and group exist.
        Some(min) => unsafe { _mm512_fmadd_ps(min, _mm512_set1_ps(*x.sums.add(row * x.sum_stride + group)), total) },
        None => total,
    }
}

/// Adds the products of these pairs of columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn add_pairs<const P: usize, const T: usize>(
    chunks: &[PairChunk],
    pairs: Range<usize>,
    x: Bf16View,
    acc: &mut [[__m512; P]; T],
) {
    for pair in pairs {
        let mut w = [_mm512_setzero_si512(); P];
        for p in 0..P {
            // SAFETY: the chunk has the pair, on a cache line.
            w[p] = unsafe { _mm512_load_si512(chunks[p].pairs.as_ptr().add(pair * PAIR).cast()) };
        }
        // SAFETY: `x` has T rows of these columns.
        unsafe { add_pair(w, x, pair, acc) };
    }
}

/// Adds the products of one pair of columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn add_pair<const P: usize, const T: usize>(
    w: [__m512i; P],
    x: Bf16View,
    pair: usize,
    acc: &mut [[__m512; P]; T],
) {
    let numbers = opaque(x.numbers).wrapping_add(2 * pair);
    for t in 0..T {
        // SAFETY: `x` has T rows of these columns.
        let q = _mm512_set1_epi32(unsafe { numbers.add(t * x.stride).cast::<i32>().read_unaligned() });
        for p in 0..P {
            acc[t][p] = _mm512_dpbf16_ps(acc[t][p], bf16s(w[p]), bf16s(q));
        }
    }
}

/// Most rows that are multiplied without a chunk in between: where memory limits, nothing should come between it and the products.
fn most_few_rows(layout: Layout) -> usize {
    match layout {
        Layout::Bf16 | Layout::F16 => 2 * STRAIGHT_ROWS,
        Layout::I8Row => 0,
        _ => 4,
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn few(layout: Layout, panels: PackedPanels, x: Bf16View, rows: usize, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match layout {
            Layout::Bf16 => few_dense::<false>(panels, x, rows, stride),
            Layout::F16 => few_dense::<true>(panels, x, rows, stride),
            _ => with_format!(layout, F => few_blocks::<F>(panels, x, rows, stride)).expect("few rows have blocks"),
        }
    }
}

/// Up to eight rows, with `P` panels side by side, since few sums would wait for their own additions; what panels are left come one
/// by one.
macro_rules! side_by_side {
    ($panels:expr, $x:expr, $rows:expr, $stride:expr, $($T:literal $P:literal)+) => {
        match $rows {
            $($T => {
                let apart = $panels.count / $P;
                for i in 0..apart {
                    straight::<F16, $T, $P>($panels.skip(i), apart, $x, true, $stride);
                }
                for i in apart * $P..$panels.count {
                    straight::<F16, $T, 1>($panels.skip(i), 0, $x, true, $stride);
                }
            })+
            rows => unreachable!("{rows} rows have sums enough"),
        }
    };
}

/// A tile of so many rows of the first panel.
macro_rules! straight_of {
    ($rows:expr, $args:tt, $($T:literal)+) => {
        match $rows {
            $($T => straight::<F16, $T, 1> $args,)+
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn few_dense<const F16: bool>(panels: PackedPanels, x: Bf16View, rows: usize, stride: usize) {
    if rows <= 8 {
        // SAFETY: the caller's promise.
        return unsafe { side_by_side!(panels, x, rows, stride, 1 4 2 4 3 4 4 4 5 2 6 2 7 2 8 2) };
    }
    let num_tiles = rows.div_ceil(STRAIGHT_ROWS);
    for i in 0..panels.count {
        let panel = panels.skip(i);
        for i in 0..num_tiles {
            let here = part(i, num_tiles, rows);
            let to = PackedPanels { out: panel.out.wrapping_add(here.start * stride), ..panel };
            // SAFETY: the rows exist.
            unsafe {
                let x = x.skip_rows(here.start);
                straight_of!(here.len(), (to, 0, x, num_tiles == 1, stride),
                    9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24)
            }
        }
    }
}

/// `T` rows against `P` panels that lie `apart` from each other; `once`: no other tile reads them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn straight<const F16: bool, const T: usize, const P: usize>(
    panels: PackedPanels,
    apart: usize,
    x: Bf16View,
    once: bool,
    stride: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); P]; T];
    for four in 0..panels.cols.div_ceil(4) {
        let (mut even, mut odd) = ([_mm512_setzero_si512(); P], [_mm512_setzero_si512(); P]);
        for p in 0..P {
            let at = panels.first.wrapping_add(p * apart * panels.panel_bytes + four * 4 * PAIR);
            match once {
                true => prefetch_once(at.wrapping_add(AHEAD), 4 * PAIR),
                false => prefetch(at.wrapping_add(AHEAD), 4 * PAIR),
            }
            // SAFETY: the panel has these columns.
            [even[p], odd[p]] = unsafe { four_of::<F16>(at, panels.cols - 4 * four) };
        }
        // SAFETY: `x` has T rows of these columns.
        unsafe {
            add_pair(even, x, 2 * four, &mut sums);
            add_pair(odd, x, 2 * four + 1, &mut sums);
        }
    }
    for t in 0..T {
        for p in 0..P {
            // SAFETY: the caller's T rows of these panels.
            unsafe { _mm512_storeu_ps(panels.out.add(t * stride + p * apart * PANEL_ROWS), sums[t][p]) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn few_blocks<F: Format>(panels: PackedPanels, x: Bf16View, rows: usize, stride: usize) {
    let ahead = single_ahead(1, panels.panel_bytes);
    for panel in 0..panels.count {
        let panel = panels.skip(panel);
        // SAFETY: the caller's promise.
        unsafe {
            match rows {
                1 => straight_blocks::<F, 1>(panel, ahead, x, stride),
                2 => straight_blocks::<F, 2>(panel, ahead, x, stride),
                3 => straight_blocks::<F, 3>(panel, ahead, x, stride),
                4 => straight_blocks::<F, 4>(panel, ahead, x, stride),
                rows => unreachable!("{rows} rows are not few"),
            }
        }
    }
}

/// `T` rows against the first panel: as `tile_rows` adds them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")]
unsafe fn straight_blocks<F: Format, const T: usize>(panel: PackedPanels, ahead: usize, x: Bf16View, stride: usize) {
    let spec = const { F::SPEC };
    let table = Table::of::<F>();
    let mut totals = [_mm512_setzero_ps(); T];
    for g in 0..panel.cols / spec.group {
        let block = panel.first.wrapping_add(g / spec.groups() * const { F::SPEC.bytes() });
        let in_block = g % spec.groups();
        let codes = block.wrapping_add(const { F::SPEC.codes_at() } + in_block * const { F::SPEC.group_bytes() });
        prefetch_once(
            block.wrapping_add(ahead + in_block * const { F::SPEC.bytes() / F::SPEC.groups() }),
            const { F::SPEC.bytes() / F::SPEC.groups() },
        );
        // SAFETY: the panel and the T rows have these columns.
        unsafe {
            let mut acc = [[_mm512_setzero_ps(); 1]; T];
            for step in 0..spec.group / 4 {
                let [even, odd] = table.pairs(codes, spec, step);
                let pair = (g * spec.group + 4 * step) / 2;
                add_pair([even], x, pair, &mut acc);
                add_pair([odd], x, pair + 1, &mut acc);
            }
            let scale = group_scale(block, spec, in_block);
            let min = if spec.min { Some(group_min(block, spec, in_block)) } else { None };
            for t in 0..T {
                totals[t] = add_group(totals[t], acc[t][0], scale, min, x, t, g);
            }
        }
    }
    for t in 0..T {
        // SAFETY: the caller's T rows.
        unsafe { _mm512_storeu_ps(panel.out.add(t * stride), totals[t]) };
    }
}
