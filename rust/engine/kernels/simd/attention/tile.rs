//! The micro-kernel of scores and of values: sums += factors · panels.

use super::Element;
use crate::kernels::attention::Chunk;
use crate::kernels::simd::{F32x16, prefetch};

/// Bytes of keys, or values, that all rows pass over before the next ones: they stay in the L1 cache.
const PASS_BYTES: usize = 32 << 10;

/// Blocks of as many bytes.
pub(super) fn blocks_per_pass(chunk: &Chunk<'_>) -> usize {
    (PASS_BYTES / chunk.task.kv.shape.piece_bytes()).max(1)
}

/// Calls `$tile::<.., ROWS, PANELS>(row)` for tiles that cover `0..$num_rows`, each as large as the registers allow:
/// enough sums to hide the latency of a multiply-add, few enough to leave room for a pair and a factor.
macro_rules! for_each_tile {
    ($S:ident, $E:ident, $num_rows:expr, |$row:ident| $tile:ident($($argument:expr),*)) => {{
        let (num_rows, mut $row) = ($num_rows, 0);
        while $row < num_rows {
            let left = num_rows - $row;
            $row += if $S::REGISTERS >= 32 {
                match left {
                    8.. => $tile::<$S, $E, 8, 2>($($argument),*),
                    4.. => $tile::<$S, $E, 4, 4>($($argument),*),
                    3 => $tile::<$S, $E, 3, 4>($($argument),*),
                    2 => $tile::<$S, $E, 2, 2>($($argument),*),
                    _ => $tile::<$S, $E, 1, 4>($($argument),*),
                }
            } else {
                match left {
                    6 | 9.. => $tile::<$S, $E, 6, 1>($($argument),*),
                    4.. => $tile::<$S, $E, 4, 1>($($argument),*),
                    3 => $tile::<$S, $E, 3, 1>($($argument),*),
                    2 => $tile::<$S, $E, 2, 2>($($argument),*),
                    _ => $tile::<$S, $E, 1, 4>($($argument),*),
                }
            };
        }
    }};
}
pub(super) use for_each_tile;

/// sums (ROWS, PANELS, 16) += factors (ROWS, 2 * pairs) · panels (PANELS, 2 * pairs, 16): a sum is one chain of
/// additions over the depth in order, whatever the tile. Prefetches as many bytes from `ahead` on.
///
/// # Safety
/// `factors` and `panels` are valid for reading those shapes.
#[inline(always)]
pub(super) unsafe fn multiply<S: F32x16, E: Element<S>, const ROWS: usize, const PANELS: usize>(
    sums: &mut [[E::Sum; PANELS]; ROWS],
    factors: [*const E::Factor; ROWS],
    panels: [*const u8; PANELS],
    ahead: [*const u8; PANELS],
    pairs: usize,
) {
    // Line after line of one panel, then of the next: hardware prefetchers follow that.
    let per_panel = pairs / PANELS;
    for from in 0..PANELS {
        for step in 0..per_panel {
            let fetch = ahead[from].wrapping_add(step * PANELS * E::PAIR_BYTES);
            // SAFETY: the caller's promise.
            unsafe { add_pairs::<S, E, ROWS, PANELS>(sums, factors, panels, fetch, from * per_panel + step) };
        }
    }
    for pair in PANELS * per_panel..pairs {
        // SAFETY: the caller's promise.
        unsafe { add_pairs::<S, E, ROWS, PANELS>(sums, factors, panels, ahead[0], pair) };
    }
}

/// One step of `multiply`, which prefetches a pair for each panel.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_pairs<S: F32x16, E: Element<S>, const ROWS: usize, const PANELS: usize>(
    sums: &mut [[E::Sum; PANELS]; ROWS],
    factors: [*const E::Factor; ROWS],
    panels: [*const u8; PANELS],
    fetch: *const u8,
    pair: usize,
) {
    for panel in 0..PANELS {
        prefetch(fetch.wrapping_add(panel * E::PAIR_BYTES), E::PAIR_BYTES);
        // SAFETY: the caller's promise.
        unsafe {
            let loaded = E::load_pair(panels[panel].add(pair * E::PAIR_BYTES));
            for row in 0..ROWS {
                sums[row][panel] = E::add_pair(sums[row][panel], factors[row].add(2 * pair), loaded);
            }
        }
    }
}
