//! The largest numbers of each row, kept apart from those that become int8. A few channels are far larger than all others, and
//! would set the scale by which the other numbers of their group are rounded.

use std::ops::Range;

use super::MatMut;
use super::tier::{Lanes, MatmulTier};
use crate::quant::{BlockSpec, PANEL_ROWS, PackedMatrix};

/// Numbers of a row that are kept apart.
pub const NUM_OUTLIERS: usize = 4;

/// Of one row, in the order of their columns. Where there are fewer, zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Outliers {
    cols: [u32; NUM_OUTLIERS],
    values: [f32; NUM_OUTLIERS],
}

impl Outliers {
    /// Takes the largest finite numbers out of a row, the first ones of equals, and leaves zeros.
    pub fn take(x: &mut [f32]) -> Self {
        let mut largest = [(0.0, 0); NUM_OUTLIERS];
        for (col, size) in x.iter().map(|x| x.abs()).enumerate() {
            if size > largest[NUM_OUTLIERS - 1].0 && size.is_finite() {
                let place = largest.iter().position(|&(other, _)| size > other).expect("the last one is smaller");
                largest.copy_within(place..NUM_OUTLIERS - 1, place + 1);
                largest[place] = (size, col);
            }
        }
        largest.sort_unstable_by_key(|&(_, col)| col);
        let cols = largest.map(|(_, col)| col as u32);
        let values = largest.map(|(size, col)| if size > 0.0 { std::mem::take(&mut x[col]) } else { 0.0 });
        Self { cols, values }
    }
}

/// Outliers of several rows.
#[derive(Debug)]
pub struct OutlierRows {
    /// All columns that have one.
    pub(super) cols: Vec<usize>,
    rows: Vec<OutlierRow>,
}

#[derive(Debug)]
pub struct OutlierRow {
    pub values: [f32; NUM_OUTLIERS],
    /// Into the columns.
    pub places: [usize; NUM_OUTLIERS],
}

impl FromIterator<Outliers> for OutlierRows {
    fn from_iter<I: IntoIterator<Item = Outliers>>(rows: I) -> Self {
        let rows: Vec<_> = rows.into_iter().collect();
        let mut cols: Vec<_> = rows.iter().flat_map(|row| row.cols.map(|col| col as usize)).collect();
        cols.sort_unstable();
        cols.dedup();
        let place = |col: u32| cols.binary_search(&(col as usize)).expect("every row's columns are among them");
        let rows = rows.iter().map(|row| OutlierRow { values: row.values, places: row.cols.map(place) }).collect();
        Self { cols, rows }
    }
}

/// Where a panel of blocks has the codes and factors of a column.
#[derive(Debug, Clone, Copy)]
pub struct ColumnPlace {
    /// From the panel's first byte to the block.
    pub block: usize,
    pub group: usize,
    /// Of the four columns that the group has side by side.
    pub step: usize,
    pub byte: usize,
}

impl ColumnPlace {
    fn of(spec: &BlockSpec, col: usize) -> Self {
        let block = col / spec.cols * spec.bytes();
        Self { block, group: col % spec.cols / spec.group, step: col % spec.group / 4, byte: col % 4 }
    }
}

/// Rows' outliers beside a matrix: what they add to a panel's outputs once its products are there, and its bytes are close.
#[derive(Debug)]
pub struct PanelOutliers<'a> {
    pub rows: &'a [OutlierRow],
    /// Of all columns.
    pub places: &'a [ColumnPlace],
    /// (places, 16), to decode these columns of a panel.
    pub columns: &'a mut [Lanes],
}

/// What `PanelOutliers` borrow.
#[derive(Debug)]
pub struct OutlierColumns<'a> {
    rows: &'a [OutlierRow],
    places: Vec<ColumnPlace>,
    columns: Vec<Lanes>,
}

impl<'a> OutlierColumns<'a> {
    /// Beside `w`, whose layout has blocks.
    pub fn new(outliers: &'a OutlierRows, w: &PackedMatrix) -> Self {
        let spec = w.layout().block().expect("the caller's layout has blocks");
        let places: Vec<_> = outliers.cols.iter().map(|&col| ColumnPlace::of(&spec, col)).collect();
        Self { rows: &outliers.rows, columns: vec![[0.0; PANEL_ROWS]; places.len()], places }
    }

    pub fn of_rows(&mut self, rows: Range<usize>) -> PanelOutliers<'_> {
        PanelOutliers { rows: &self.rows[rows], places: &self.places, columns: &mut self.columns }
    }

    /// Adds what outliers of the rows `rows` make of these panels to `out`.
    ///
    /// # Safety
    /// The machine has the tier; the rows and the panels' columns of `out` are the caller's.
    pub unsafe fn add(
        &mut self,
        tier: &MatmulTier,
        w: &PackedMatrix,
        panels: Range<usize>,
        rows: Range<usize>,
        out: MatMut<'_>,
    ) {
        let PanelOutliers { rows: x, places, columns } = self.of_rows(rows.clone());
        for panel in panels {
            let count = PANEL_ROWS.min(w.rows() - panel * PANEL_ROWS);
            let to = out.ptr.wrapping_add(rows.start * out.stride + panel * PANEL_ROWS);
            // SAFETY: the panel has the columns; the caller's promise.
            unsafe {
                (tier.columns)(w.layout(), w.panel_ptr(panel), places, columns);
                if count == PANEL_ROWS {
                    (tier.add_columns)(columns, x, to, out.stride);
                    continue;
                }
                for (r, x) in x.iter().enumerate() {
                    let to = to.wrapping_add(r * out.stride);
                    let mut sums = [0.0; PANEL_ROWS];
                    sums[..count].copy_from_slice(std::slice::from_raw_parts(to, count));
                    (tier.add_columns)(columns, std::slice::from_ref(x), sums.as_mut_ptr(), PANEL_ROWS);
                    to.copy_from_nonoverlapping(sums.as_ptr(), count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_largest_are_taken_in_order() {
        let mut x = [1.0, f32::NAN, -9.0, 3.0, f32::INFINITY, 9.0, -4.0, 3.0];
        let outliers = Outliers::take(&mut x);
        assert_eq!((outliers.cols, outliers.values), ([2, 3, 5, 6], [-9.0, 3.0, 9.0, -4.0]));
        assert!(x[1].is_nan());
        assert_eq!([x[0], x[2], x[3], x[4], x[5], x[6], x[7]], [1.0, 0.0, 0.0, f32::INFINITY, 0.0, 0.0, 3.0]);
        assert_eq!(Outliers::take(&mut [0.0, 2.0]).values, [0.0, 0.0, 0.0, 2.0]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(mut x in prop::collection::vec(-9.0f32..9.0, 1..70)) {
            let before = x.clone();
            let Outliers { cols, values } = Outliers::take(&mut x);
            let least = before.iter().zip(&x).filter(|(before, after)| before != after).map(|(x, _)| x.abs());
            let least = least.fold(f32::INFINITY, f32::min);
            prop_assert!(x.iter().all(|x| x.abs() <= least));
            cols.iter().zip(values).for_each(|(&col, value)| x[col as usize] += value);
            prop_assert_eq!(x, before);
        }
    }
}
