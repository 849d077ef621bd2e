//! The kernel-ready layout of a weight matrix.

mod buffer;
mod layout;
mod unpack;

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use super::{DType, e4m3};
use crate::error::Result;
use crate::kernels::threads::Pool;
use crate::weights::{MappedFile, RowSource, TensorView};

pub use self::buffer::WeightArena;
pub(crate) use self::buffer::{Region, fetch};
pub(crate) use self::layout::with_format;
pub use self::layout::{BlockSpec, Format, LAYOUT_VERSION, Layout, format};
pub(crate) use self::layout::{F8_BYTES, F8_COLS, F8_SCALES, ROW_OFFSET, ROW_SCALES};
pub(crate) use self::unpack::BlockParts;

/// Rows that lie interleaved.
pub const PANEL_ROWS: usize = 16;

/// A weight matrix (rows, cols) in panels of 16 rows, the last one padded with zero rows.
#[derive(Debug)]
pub struct PackedMatrix {
    /// (num_panels, panel_bytes).
    data: Region,
    dtype: DType,
    rows: usize,
    cols: usize,
}

impl PackedMatrix {
    /// Packs rows of `view`, a matrix [rows, cols]: output row `r` is the source's row `row_of(r)`.
    pub fn pack(view: &TensorView<'_>, rows: usize, row_of: &dyn Fn(usize) -> usize) -> Result<Self> {
        let cols = view.shape.last().copied().unwrap_or(0);
        let matrix = Self::zeroed(view.dtype, rows, cols)?;
        // SAFETY: nobody else has the matrix yet.
        unsafe { matrix.pack_panels(view, row_of, 0..matrix.num_panels()) };
        Ok(matrix)
    }

    /// A matrix of zeros, for `pack_panels`. Its memory is taken by the lanes that write it.
    pub fn zeroed(dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        let data = Region::zeroed(Self::packed_bytes(dtype, rows, cols))?;
        Ok(Self { data, dtype, rows, cols })
    }

    /// The same in an arena, where a model's small matrices share huge pages.
    pub fn zeroed_in(arena: &WeightArena, dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        let data = arena.take(Self::packed_bytes(dtype, rows, cols))?;
        Ok(Self { data, dtype, rows, cols })
    }

    /// A float32 matrix whose numbers are computed: `fill` gets each panel's (cols, 16), where row `r` of the panel
    /// is column `r`.
    pub fn computed(rows: usize, cols: usize, pool: &Pool, fill: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Result<Self> {
        let matrix = Self::zeroed(DType::F32, rows, cols)?;
        pool.run(&|lane| {
            for panel in lane.share(matrix.num_panels()) {
                // SAFETY: the panel has these floats, aligned to cache lines, and this lane alone has the panel.
                let numbers =
                    unsafe { std::slice::from_raw_parts_mut(matrix.panel_ptr(panel).cast(), cols * PANEL_ROWS) };
                fill(panel, numbers);
            }
        })?;
        Ok(matrix)
    }

    /// A matrix that was packed before and lies in a file. None: it cannot lie there.
    pub(crate) fn mapped(file: &Arc<MappedFile>, start: usize, dtype: DType, rows: usize, cols: usize) -> Option<Self> {
        let data = Region::mapped(file, start, Self::packed_bytes(dtype, rows, cols))?;
        Some(Self { data, dtype, rows, cols })
    }

    /// The same matrix for another owner; nobody may pack it any more.
    pub(crate) fn share(&self) -> Self {
        Self { data: self.data.clone(), ..*self }
    }

    fn packed_bytes(dtype: DType, rows: usize, cols: usize) -> usize {
        assert!(cols.is_multiple_of(dtype.block_len()), "{cols} columns are not whole blocks of {dtype}");
        rows.div_ceil(PANEL_ROWS).saturating_mul(Layout::of(dtype).panel_bytes(cols))
    }

    /// Packs panels `panels`, as `pack` does for all of them.
    ///
    /// # Safety
    /// No other lane reads or writes these panels meanwhile.
    pub unsafe fn pack_panels(&self, source: &dyn RowSource, row_of: &dyn Fn(usize) -> usize, panels: Range<usize>) {
        assert!(source.dtype() == self.dtype && source.cols() == self.cols, "'{}' changed its shape", source.name());
        assert!(panels.end <= self.num_panels(), "panel {} of {}", panels.end, self.num_panels());
        assert!(self.data.is_writable(), "'{}' lies in a file", source.name());
        let mut buffer = Vec::new();
        for panel in panels {
            // SAFETY: the panel lies inside the buffer, and the caller keeps others away from it.
            let out = unsafe { std::slice::from_raw_parts_mut(self.panel_ptr(panel), self.panel_bytes()) };
            let rows = panel * PANEL_ROWS..self.rows.min((panel + 1) * PANEL_ROWS);
            let rows: Vec<usize> = rows.map(row_of).collect();
            self.pack_panel(&source.read(&rows, &mut buffer)[..rows.len()], out);
        }
    }

    /// Panels of the same matrix, packed elsewhere.
    ///
    /// # Safety
    /// As for `pack_panels`.
    pub(crate) unsafe fn copy_panels(&self, from: &Self, panels: Range<usize>) {
        assert!((self.dtype, self.rows, self.cols) == (from.dtype, from.rows, from.cols), "another matrix");
        assert!(self.data.is_writable(), "a matrix that lies in a file");
        let bytes = panels.start * self.panel_bytes()..panels.end * self.panel_bytes();
        let source = &from.bytes()[bytes.clone()];
        // SAFETY: the panels lie inside both, and the caller keeps others away from these.
        unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), self.data.as_ptr().add(bytes.start), source.len()) };
    }

    #[cfg(test)]
    pub(crate) fn is_mapped(&self) -> bool {
        !self.data.is_writable()
    }

    /// Gives the pages of a matrix that lies in a file back: whoever reads it again reads the file.
    pub(crate) fn release(&self) {
        self.data.release();
    }

    /// Packs rows, block by block, so that a panel's block is written while it is in L1.
    fn pack_panel(&self, rows: &[&[u8]], panel: &mut [u8]) {
        let Some(spec) = self.layout().block() else {
            return match self.dtype {
                DType::F32 => place_dense::<4>(rows, panel),
                DType::F8_E4M3 => place_f8(rows, panel),
                DType::I8_ROW => place_i8_rows(rows, panel),
                _ => place_dense::<2>(rows, panel),
            };
        };
        let mut parts = BlockParts::new();
        let size = self.dtype.block_bytes();
        for (b, out) in panel.chunks_exact_mut(spec.bytes()).enumerate() {
            for (lane, row) in rows.iter().enumerate() {
                parts.read(self.dtype, &row[b * size..][..size]);
                place(&parts, &spec, lane, out);
            }
        }
    }

    /// Asks memory for the panels from `panel` on, `bytes` of them at most, to come close to this core.
    pub fn fetch(&self, panel: usize, bytes: usize) {
        let start = panel * self.panel_bytes();
        fetch(self.data.as_ptr().wrapping_add(start), bytes.min(self.num_bytes().saturating_sub(start)));
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    pub fn cols(&self) -> usize {
        self.cols
    }

    pub fn num_panels(&self) -> usize {
        self.rows.div_ceil(PANEL_ROWS)
    }

    pub fn layout(&self) -> Layout {
        Layout::of(self.dtype)
    }

    /// The type in the file.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes in memory, padding included.
    pub fn num_bytes(&self) -> usize {
        self.data.len()
    }

    /// (num_panels, panel_bytes), once packed.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the region has these bytes, and they do not change once the matrix is packed.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.data.len()) }
    }

    pub fn panel_bytes(&self) -> usize {
        self.layout().panel_bytes(self.cols)
    }

    /// The panel's (panel_bytes,); kernels read through it.
    pub(crate) fn panel_ptr(&self, panel: usize) -> *mut u8 {
        assert!(panel < self.num_panels());
        // SAFETY: the panel lies inside the buffer.
        unsafe { self.data.as_ptr().add(panel * self.panel_bytes()) }
    }

    /// Decodes row `row` to `out` (cols,): embedding lookup. Equals `dequantize` of the file's row, bit for bit.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols, "row {row} of {}, {} columns", self.rows, out.len());
        // SAFETY: the panel lies inside the buffer; nobody writes a matrix that is in use.
        let panel = unsafe { std::slice::from_raw_parts(self.panel_ptr(row / PANEL_ROWS), self.panel_bytes()) };
        let lane = row % PANEL_ROWS;
        let is_quantized = with_format!(self.layout(), F => decode_blocks::<F>(panel, lane, out)).is_some();
        if !is_quantized {
            decode_dense(panel, self.layout(), lane, out);
        }
    }
}

/// Writes one row's block into its lane of the panel's block.
fn place(parts: &BlockParts, spec: &BlockSpec, lane: usize, block: &mut [u8]) {
    block[2 * lane..][..2].copy_from_slice(&parts.scale);
    if spec.min {
        block[spec.min_at() + 2 * lane..][..2].copy_from_slice(&parts.min);
    }
    if spec.sub_scales {
        for group in 0..spec.groups() {
            let at = group * PANEL_ROWS + lane;
            block[spec.sub_scales_at() + at] = parts.sub_scales[group] as u8;
            if spec.min {
                block[spec.sub_mins_at() + at] = parts.sub_mins[group] as u8;
            }
        }
    }
    let groups = block[spec.codes_at()..].chunks_exact_mut(spec.group_bytes());
    for (codes, group) in parts.codes[..spec.cols].chunks_exact(spec.group).zip(groups) {
        let (low, high) = group.split_at_mut(spec.plane_bytes(spec.bits - spec.high_bits()));
        match spec.bits {
            8 => place_plane::<8, 0>(codes, lane, low),
            _ => place_plane::<4, 0>(codes, lane, low),
        }
        match spec.high_bits() {
            1 => place_plane::<1, 4>(codes, lane, high),
            2 => place_plane::<2, 4>(codes, lane, high),
            _ => {}
        }
    }
}

/// `BITS` bits of each code, from bit `LOW` on.
fn place_plane<const BITS: usize, const LOW: usize>(codes: &[u8], lane: usize, plane: &mut [u8]) {
    let mask = u32::from_le_bytes([plane_mask(BITS); 4]);
    for (codes, line) in codes.chunks_exact(4 * 8 / BITS).zip(plane.chunks_exact_mut(4 * PANEL_ROWS)) {
        let steps = codes.as_chunks::<4>().0.iter().map(|&codes| (u32::from_le_bytes(codes) >> LOW) & mask);
        let packed = steps.enumerate().fold(0, |packed, (i, step)| packed | step << (BITS * i));
        line[4 * lane..][..4].copy_from_slice(&packed.to_le_bytes());
    }
}

/// The lowest `bits` bits.
const fn plane_mask(bits: usize) -> u8 {
    u8::MAX >> (8 - bits)
}

/// Interleaves rows of numbers of `SIZE` bytes.
fn place_dense<const SIZE: usize>(rows: &[&[u8]], panel: &mut [u8]) {
    for (k, column) in panel.chunks_exact_mut(SIZE * PANEL_ROWS).enumerate() {
        for (row, out) in rows.iter().zip(column.as_chunks_mut::<SIZE>().0) {
            out.copy_from_slice(&row[k * SIZE..][..SIZE]);
        }
    }
}

/// Interleaves rows of blocks of eight-bit floats.
fn place_f8(rows: &[&[u8]], panel: &mut [u8]) {
    let size = DType::F8_E4M3.block_bytes();
    for (b, block) in panel.chunks_exact_mut(F8_BYTES).enumerate() {
        let (scales, codes) = block.split_at_mut(F8_SCALES);
        for (lane, row) in rows.iter().enumerate() {
            let (scale, row) = row[b * size..][..size].split_at(4);
            scales[4 * lane..][..4].copy_from_slice(scale);
            codes.chunks_exact_mut(PANEL_ROWS).zip(row).for_each(|(column, &code)| column[lane] = code);
        }
    }
}

/// Interleaves rows of blocks that have the same scale.
fn place_i8_rows(rows: &[&[u8]], panel: &mut [u8]) {
    let (scales, codes) = panel.split_at_mut(ROW_SCALES);
    for (lane, row) in rows.iter().enumerate() {
        let blocks = row.chunks_exact(DType::I8_ROW.block_bytes());
        scales[4 * lane..][..4].copy_from_slice(&row[..4]);
        for (block, lines) in blocks.zip(codes.chunks_exact_mut(DType::I8_ROW.block_len() * PANEL_ROWS)) {
            let (scale, block) = block.split_at(4);
            assert!(scale == &row[..4], "a row of one scale has two");
            for (four, line) in block.as_chunks::<4>().0.iter().zip(lines.chunks_exact_mut(4 * PANEL_ROWS)) {
                line[4 * lane..][..4].copy_from_slice(&four.map(|code| code ^ ROW_OFFSET));
            }
        }
    }
}

fn read_f16(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn read_f32(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn read_i16(bytes: &[u8]) -> i16 {
    i16::from_le_bytes([bytes[0], bytes[1]])
}

fn decode_f8(panel: &[u8], lane: usize, out: &mut [f32]) {
    for (block, out) in panel.chunks_exact(F8_BYTES).zip(out.chunks_exact_mut(F8_COLS)) {
        let (scales, codes) = block.split_at(F8_SCALES);
        let scale = read_f32(&scales[4 * lane..]);
        out.iter_mut()
            .zip(codes.chunks_exact(PANEL_ROWS))
            .for_each(|(x, column)| *x = scale * e4m3::decode(column[lane]));
    }
}

fn decode_i8_row(panel: &[u8], lane: usize, out: &mut [f32]) {
    let (scales, codes) = panel.split_at(ROW_SCALES);
    let scale = read_f32(&scales[4 * lane..]);
    for (four, line) in out.chunks_exact_mut(4).zip(codes.chunks_exact(4 * PANEL_ROWS)) {
        four.iter_mut().zip(&line[4 * lane..]).for_each(|(x, code)| *x = scale * f32::from((code ^ ROW_OFFSET) as i8));
    }
}

fn decode_dense(panel: &[u8], layout: Layout, lane: usize, out: &mut [f32]) {
    match layout {
        Layout::F8 => return decode_f8(panel, lane, out),
        Layout::I8Row => return decode_i8_row(panel, lane, out),
        _ => {}
    }
    let size = if layout == Layout::F32 { 4 } else { 2 };
    for (x, column) in out.iter_mut().zip(panel.chunks_exact(size * PANEL_ROWS)) {
        let number = &column[size * lane..][..size];
        *x = match layout {
            Layout::F32 => read_f32(number),
            Layout::F16 => read_f16(number),
            _ => bf16::from_le_bytes([number[0], number[1]]).to_f32(),
        };
    }
}

/// One row of a panel, compiled for its layout.
fn decode_blocks<F: Format>(panel: &[u8], lane: usize, out: &mut [f32]) {
    let spec = const { F::SPEC };
    for (block, out) in panel.chunks_exact(spec.bytes()).zip(out.chunks_exact_mut(spec.cols)) {
        decode_block(block, &spec, lane, out);
    }
}

/// One row of a block, (spec.cols,). The specification of the quantized layouts.
#[inline(always)]
fn decode_block(block: &[u8], spec: &BlockSpec, lane: usize, out: &mut [f32]) {
    for (group, out) in out.chunks_exact_mut(spec.group).enumerate() {
        let (scale, min) = group_scales(block, spec, group, lane);
        for (k, x) in out.iter_mut().enumerate() {
            let code = code(block, spec, group * spec.group + k, lane);
            *x = scale * (i32::from(code) - spec.offset) as f32;
            if spec.min {
                *x += min;
            }
        }
    }
}

/// Scale and minimum of one row in one group. Both products are exact: 11 bits times 8.
#[inline(always)]
pub(crate) fn group_scales(block: &[u8], spec: &BlockSpec, group: usize, lane: usize) -> (f32, f32) {
    let mut scale = match spec.bf16_scale {
        true => bf16::from_le_bytes([block[2 * lane], block[2 * lane + 1]]).to_f32(),
        false => read_f16(&block[2 * lane..]),
    };
    let mut min = match (spec.min, spec.zero) {
        (false, _) => 0.0,
        (true, false) => read_f16(&block[spec.min_at() + 2 * lane..]),
        (true, true) => scale * f32::from(read_i16(&block[spec.min_at() + 2 * lane..])),
    };
    if spec.sub_scales {
        let at = group * PANEL_ROWS + lane;
        scale *= f32::from(block[spec.sub_scales_at() + at] as i8);
        if spec.min {
            min *= f32::from(block[spec.sub_mins_at() + at] as i8);
        }
    }
    (scale, min)
}

/// The code of column `col` of a block in one row.
#[inline(always)]
pub(crate) fn code(block: &[u8], spec: &BlockSpec, col: usize, lane: usize) -> u8 {
    let group = &block[spec.codes_at() + col / spec.group * spec.group_bytes()..];
    let (step, byte) = (col % spec.group / 4, 4 * lane + col % 4);
    let field = |plane: &[u8], bits: usize| {
        let line = step * bits / 8 * 4 * PANEL_ROWS;
        (plane[line + byte] >> (step * bits % 8)) & plane_mask(bits)
    };
    let low = field(group, spec.bits - spec.high_bits());
    let code = match spec.high_bits() {
        0 => low,
        bits => low | field(&group[spec.plane_bytes(4)..], bits) << 4,
    };
    spec.values.map_or(code, |values| values[usize::from(code)])
}
