//! What rows' outliers add to the outputs of a panel, for vector tiers.

use super::F32x16;
use crate::kernels::matmul::{Lanes, OutlierRow};

/// `MatmulTier::add_columns`.
///
/// # Safety
/// `out` is (rows.len(), stride), of which sixteen columns are the caller's alone.
#[inline(always)]
pub(in crate::kernels) unsafe fn add_columns<V: F32x16>(
    columns: &[Lanes],
    rows: &[OutlierRow],
    out: *mut f32,
    stride: usize,
) {
    for (r, row) in rows.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let out = out.add(r * stride);
            let mut sums = V::load(out);
            for (&value, &place) in row.values.iter().zip(&row.places) {
                sums = V::load(columns[place].as_ptr()).mul_add(V::splat(value), sums);
            }
            sums.store(out);
        }
    }
}
