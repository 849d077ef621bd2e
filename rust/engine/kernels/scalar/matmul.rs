//! The matrix kernels' specification.

use half::{bf16, f16};

use crate::kernels::matmul::{
    ColumnPlace, MatmulTier, OutlierRow, PanelChunk, PanelSums, WIDE_GROUP, quantize_groups, quantize_wide,
};
use crate::kernels::matmul::{
    F32Rows, F32Sums, F32Weights, GroupShape, Int8Kernels, Int8Rows, Int8Sums, Lanes, UnpackedInt8,
};
use crate::quant::{
    F8_BYTES, F8_COLS, F8_SCALES, Layout, PANEL_ROWS, ROW_OFFSET, ROW_SCALES, code, e4m3, group_scales,
};

pub static TIER: MatmulTier = MatmulTier {
    quantize: quantize_groups,
    quantize_wide,
    unpack,
    int8: Int8Kernels::Unpacked(UnpackedInt8 { tile: int8_tile, few_rows: None, by_row }),
    decode,
    widen,
    columns,
    add_columns,
    dense_panels: None,
    f32_tile,
    bf16: None,
};

unsafe fn unpack(layout: Layout, block: *const u8, cols: usize, out: &mut PanelChunk) {
    let spec = layout.block().expect("dense panels have no blocks");
    for b in 0..cols / spec.cols {
        // SAFETY: the caller's columns are whole blocks of a panel.
        let block = unsafe { std::slice::from_raw_parts(block.add(b * spec.bytes()), spec.bytes()) };
        for row in 0..PANEL_ROWS {
            for g in 0..spec.groups() {
                let at = b * spec.groups() + g;
                (out.scales[at][row], out.mins[at][row]) = group_scales(block, &spec, g, row);
            }
            for k in 0..spec.cols {
                let col = b * spec.cols + k;
                out.codes[(col / 4 * PANEL_ROWS + row) * 4 + col % 4] = code(block, &spec, k, row);
            }
        }
    }
}

unsafe fn columns(layout: Layout, panel: *const u8, places: &[ColumnPlace], out: &mut [Lanes]) {
    let spec = layout.block().expect("dense panels have no blocks");
    for (place, out) in places.iter().zip(out) {
        let ColumnPlace { block, group, step, byte } = *place;
        // SAFETY: the caller's column lies inside the panel.
        let block = unsafe { std::slice::from_raw_parts(panel.add(block), spec.bytes()) };
        for (lane, w) in out.iter_mut().enumerate() {
            let (scale, min) = group_scales(block, &spec, group, lane);
            let code = code(block, &spec, group * spec.group + 4 * step + byte, lane);
            *w = scale * (i32::from(code) - spec.offset) as f32;
            if spec.min {
                *w += min;
            }
        }
    }
}

unsafe fn add_columns(columns: &[Lanes], rows: &[OutlierRow], out: *mut f32, stride: usize) {
    for (r, row) in rows.iter().enumerate() {
        // SAFETY: the caller's outputs.
        let out = unsafe { std::slice::from_raw_parts_mut(out.add(r * stride), PANEL_ROWS) };
        for (&value, &place) in row.values.iter().zip(&row.places) {
            out.iter_mut().zip(&columns[place]).for_each(|(out, w)| *out += value * w);
        }
    }
}

unsafe fn int8_tile(layout: Layout, chunks: &[PanelChunk], cols: usize, x: Int8Rows, sums: &mut [Int8Sums]) {
    let shape = GroupShape::from(layout.block().expect("dense panels have no codes"));
    for (t, sums) in sums.iter_mut().enumerate() {
        for (chunk, sums) in chunks.iter().zip(sums) {
            for g in 0..cols / shape.group {
                // SAFETY: `x` has sums.len() rows and `cols` columns.
                let (codes, scale, neg_sum, scaled_sum) = unsafe {
                    (
                        std::slice::from_raw_parts(x.codes.add(t * x.code_stride + g * shape.group), shape.group),
                        *x.scales.add(t * x.scale_stride + g * shape.group / 32),
                        *x.neg_sums.add(t * x.sum_stride + g),
                        *x.scaled_sums.add(t * x.sum_stride + g),
                    )
                };
                for row in 0..PANEL_ROWS {
                    let mut dot = neg_sum * shape.offset;
                    for (k, &q) in codes.iter().enumerate() {
                        let col = g * shape.group + k;
                        dot += i32::from(chunk.codes[(col / 4 * PANEL_ROWS + row) * 4 + col % 4]) * i32::from(q);
                    }
                    sums[row] += dot as f32 * (chunk.scales[g][row] * scale);
                    if shape.min {
                        sums[row] += chunk.mins[g][row] * scaled_sum;
                    }
                }
            }
        }
    }
}

unsafe fn by_row(_: Layout, panels: &[*const u8], cols: usize, x: Int8Rows, rows: usize, out: &mut [PanelSums]) {
    for (&panel, out) in panels.iter().zip(out) {
        // SAFETY: the panel has its scales, aligned, and its codes.
        let (scales, codes) =
            unsafe { (&*panel.cast::<Lanes>(), std::slice::from_raw_parts(panel.add(ROW_SCALES), cols * PANEL_ROWS)) };
        for (t, out) in out[..rows].iter_mut().enumerate() {
            *out = [0.0; PANEL_ROWS];
            // SAFETY: `x` has `rows` rows of `cols` columns.
            let q = unsafe { std::slice::from_raw_parts(x.codes.add(t * x.code_stride), cols) };
            for (group, q) in q.chunks(WIDE_GROUP).enumerate() {
                // SAFETY: the two groups of 32 have the same scale.
                let x_scale = unsafe { *x.scales.add(t * x.scale_stride + group * WIDE_GROUP / 32) };
                for (row, out) in out.iter_mut().enumerate() {
                    let code = |col: usize| codes[(col / 4 * PANEL_ROWS + row) * 4 + col % 4] ^ ROW_OFFSET;
                    let products = q
                        .iter()
                        .enumerate()
                        .map(|(k, &q)| i32::from(code(group * WIDE_GROUP + k) as i8) * i32::from(q));
                    *out += products.sum::<i32>() as f32 * x_scale;
                }
            }
            out.iter_mut().zip(scales).for_each(|(out, scale)| *out *= scale);
        }
    }
}

unsafe fn decode(chunk: &PanelChunk, shape: GroupShape, first_col: usize, out: &mut [Lanes]) {
    for (k, out) in out.iter_mut().enumerate() {
        let col = first_col + k;
        let group = col / shape.group;
        for (row, w) in out.iter_mut().enumerate() {
            let code = i32::from(chunk.codes[(col / 4 * PANEL_ROWS + row) * 4 + col % 4]);
            *w = chunk.scales[group][row] * (code - shape.offset) as f32;
            if shape.min {
                *w += chunk.mins[group][row];
            }
        }
    }
}

unsafe fn widen_f8(panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    for (k, out) in out.iter_mut().enumerate() {
        let (block, col) = ((first_col + k) / F8_COLS, (first_col + k) % F8_COLS);
        for (row, w) in out.iter_mut().enumerate() {
            // SAFETY: the caller's columns lie inside the panel, whose blocks are whole cache lines.
            *w = unsafe {
                let block = panel.add(block * F8_BYTES);
                *block.cast::<f32>().add(row) * e4m3::decode(*block.add(F8_SCALES + col * PANEL_ROWS + row))
            };
        }
    }
}

unsafe fn widen(layout: Layout, panel: *const u8, first_col: usize, out: &mut [Lanes]) {
    if layout == Layout::F8 {
        // SAFETY: the caller's promise.
        return unsafe { widen_f8(panel, first_col, out) };
    }
    for (i, w) in out.as_flattened_mut().iter_mut().enumerate() {
        let at = first_col * PANEL_ROWS + i;
        // SAFETY: the caller's columns lie inside the panel, whose numbers are aligned.
        *w = unsafe {
            match layout {
                Layout::F32 => *panel.cast::<f32>().add(at),
                Layout::F16 => (*panel.cast::<f16>().add(at)).to_f32(),
                _ => (*panel.cast::<bf16>().add(at)).to_f32(),
            }
        };
    }
}

unsafe fn f32_tile(w: &F32Weights, x: F32Rows, cols: usize, panels: usize, sums: &mut [F32Sums]) {
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: `x` has sums.len() rows and `cols` columns.
        let x = unsafe { std::slice::from_raw_parts(x.ptr.add(t * x.stride), cols) };
        for (w, sums) in w[..panels].iter().zip(sums) {
            for (w, &x) in w.iter().zip(x) {
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum += w * x;
                }
            }
        }
    }
}
