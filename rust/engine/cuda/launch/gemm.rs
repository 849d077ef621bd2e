//! Products with weight matrices.

use half::{bf16, f16};

use super::{Args, Call, KernelId, blocks, halves, words};
use crate::cuda::driver::{Arg, DeviceSlice, LaunchShape};

/// Side of the large kernels' tile.
pub(super) const TILE: usize = 128;
/// Rows of weights that a block of the skinny kernels takes, and that a panel of codes has.
pub(super) const PANEL: usize = 16;
/// Parts that k is cut into: their sums are added in order, whoever makes them.
const PARTS: usize = 8;
/// Most rows of x that the skinny kernels take.
pub(super) const SKINNY: usize = 32;
/// Of each kind of them.
const SKINNY_ROWS: [usize; 3] = [8, 16, SKINNY];

/// Where a product goes.
#[derive(Clone, Copy)]
pub enum GemmOutput<'a> {
    /// (m, n)
    Bf16(DeviceSlice<'a, bf16>),
    /// (m, n)
    F32(DeviceSlice<'a, f32>),
}

impl GemmOutput<'_> {
    pub(in crate::cuda) fn len(&self) -> usize {
        match self {
            Self::Bf16(out) => out.len(),
            Self::F32(out) => out.len(),
        }
    }

    pub(in crate::cuda) fn address(&self) -> u64 {
        match self {
            Self::Bf16(out) => out.address(),
            Self::F32(out) => out.address(),
        }
    }

    fn num_bytes(&self) -> u64 {
        match self {
            Self::Bf16(out) => halves(out.len()),
            Self::F32(out) => words(out.len()),
        }
    }
}

impl From<GemmOutput<'_>> for Arg {
    fn from(out: GemmOutput<'_>) -> Self {
        match out {
            GemmOutput::Bf16(out) => out.into(),
            GemmOutput::F32(out) => out.into(),
        }
    }
}

/// A matrix (n, k) in one of the forms of [`crate::cuda::matrix`].
#[derive(Clone, Copy)]
pub enum GemmWeight<'a> {
    /// (n, k)
    Bf16(DeviceSlice<'a, bf16>),
    /// (n, k)
    F16(DeviceSlice<'a, f16>),
    Int4 {
        /// (panels, ceil(k / 64), 32, 4)
        codes: DeviceSlice<'a, u32>,
        /// (panels, k / group, 16)
        scales: DeviceSlice<'a, f16>,
        /// As the scales. None: all are 8.
        zeros: Option<DeviceSlice<'a, u8>>,
        group: usize,
    },
    Int8 {
        /// (panels, ceil(k / 32), 32, 4)
        codes: DeviceSlice<'a, u32>,
        /// (panels, k / group, 16)
        scales: DeviceSlice<'a, f16>,
        group: usize,
    },
    /// Codes of 4 or 8 bits with a minimum beside each scale.
    Min {
        bits: usize,
        /// As those of `Int4` or `Int8`.
        codes: DeviceSlice<'a, u32>,
        /// (panels, k / group, 8, scales and minima, 2)
        factors: DeviceSlice<'a, f16>,
        /// 16 or more.
        group: usize,
    },
    /// Numbers of E2M1, with a power of two for each 32.
    Mxfp4 {
        /// As those of `Int4`.
        codes: DeviceSlice<'a, u32>,
        /// (panels, k / 32, 16): what 2 is raised to, plus 127.
        exponents: DeviceSlice<'a, u8>,
    },
}

impl GemmWeight<'_> {
    /// Panics where the buffers are not those of a matrix (n, k).
    pub(super) fn check(&self, n: usize, k: usize) {
        let panels = n.div_ceil(PANEL);
        let check = |codes: usize, block: usize, scales: usize, group: usize, least: usize| {
            assert!(
                group.is_power_of_two() && group >= least && k.is_multiple_of(group),
                "{k} columns in groups of {group}"
            );
            assert_eq!(codes, panels * k.div_ceil(block) * 128);
            assert_eq!(scales, panels * PANEL * (k / group));
        };
        match *self {
            Self::Bf16(weight) => assert_eq!(weight.len(), n * k),
            Self::F16(weight) => assert_eq!(weight.len(), n * k),
            Self::Int4 { codes, scales, zeros, group } => {
                check(codes.len(), 64, scales.len(), group, 32);
                assert!(zeros.is_none_or(|zeros| zeros.len() == scales.len()));
            }
            Self::Int8 { codes, scales, group } => check(codes.len(), 32, scales.len(), group, 32),
            Self::Min { bits, codes, factors, group } => check(codes.len(), 256 / bits, factors.len() / 2, group, 16),
            Self::Mxfp4 { codes, exponents } => check(codes.len(), 64, exponents.len(), 32, 32),
        }
    }

    /// How many panels a block of the wide kernels may have, for up to `m` rows: as cuda/gemm_skinny.cu has them.
    pub fn wide_panels(&self, m: usize) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let bits = match self {
            Self::Bf16(_) | Self::F16(_) => 16,
            Self::Int8 { .. } => 8,
            Self::Min { bits, .. } => *bits,
            Self::Int4 { .. } | Self::Mxfp4 { .. } => 4,
        };
        let rows = SKINNY_ROWS[kind(m)];
        let most = 32 / bits * if rows == 16 { 2 } else { 1 };
        let group = match rows {
            8 => most,
            _ if bits == 4 => 4,
            _ => 2,
        };
        (1..=most / group).map(move |groups| groups * group)
    }

    /// Of `blocks(panels)` blocks with so many panels each, how many panels: 1 is for the narrow kernel. Multiprocessors take
    /// blocks in turns, and some may have none in the last one: as few as can be, and then as many panels as can be. All blocks
    /// read x: the narrow kernel asks for 3 to 9 times the weights of 4 bits, which caches give at about twice the memory's
    /// rate, so that it is slower than a wide one that leaves a third of the multiprocessors without work.
    pub(super) fn num_panels(&self, m: usize, num_multiprocessors: usize, blocks: impl Fn(usize) -> usize) -> usize {
        let cost = |panels: usize| blocks(panels).div_ceil(num_multiprocessors) * panels;
        let best = self.wide_panels(m).rev().min_by_key(|&panels| cost(panels)).expect("there are wide kernels");
        if 2 * cost(best) * num_multiprocessors <= 3 * blocks(1) { best } else { 1 }
    }

    pub(super) fn num_bytes(&self) -> u64 {
        match self {
            Self::Bf16(weight) => halves(weight.len()),
            Self::F16(weight) => halves(weight.len()),
            Self::Int4 { codes, scales, zeros, .. } => {
                words(codes.len()) + halves(scales.len()) + zeros.map_or(0, |zeros| zeros.len() as u64)
            }
            Self::Int8 { codes, scales, .. } => words(codes.len()) + halves(scales.len()),
            Self::Min { codes, factors, .. } => words(codes.len()) + halves(factors.len()),
            Self::Mxfp4 { codes, exponents } => words(codes.len()) + exponents.len() as u64,
        }
    }

    /// The kernel's arguments: x, the weight's own, `between`, and the group behind them.
    pub(super) fn args(&self, x: DeviceSlice<'_, bf16>, between: &[Arg]) -> Args {
        let group_shift = |group: usize| Arg::I32(group.trailing_zeros() as i32);
        let mut args = Args::from([x.into()]);
        match *self {
            Self::Bf16(weight) => args.extend(&[weight.into()]).extend(between),
            Self::F16(weight) => args.extend(&[weight.into()]).extend(between),
            Self::Int4 { codes, scales, zeros, group } => {
                args.extend(&[codes.into(), scales.into(), zeros.into()]).extend(between).extend(&[group_shift(group)])
            }
            Self::Int8 { codes, scales, group } => {
                args.extend(&[codes.into(), scales.into()]).extend(between).extend(&[group_shift(group)])
            }
            Self::Min { codes, factors, group, .. } => {
                args.extend(&[codes.into(), factors.into()]).extend(between).extend(&[group_shift(group)])
            }
            Self::Mxfp4 { codes, exponents } => args.extend(&[codes.into(), exponents.into()]).extend(between),
        };
        args
    }
}

/// out = x · weightᵀ. Few rows are multiplied by kernels that read the weights once. An element's bits depend neither on
/// the kernel nor on the other rows.
pub struct Gemm<'a> {
    /// (m, k)
    pub x: DeviceSlice<'a, bf16>,
    pub weight: GemmWeight<'a>,
    pub out: GemmOutput<'a>,
    pub n: usize,
    pub k: usize,
    /// Blocks that share a tile's sum over k: see [`Gemm::num_splits`].
    pub splits: usize,
    /// Panels of a block, where there are few rows: see [`Gemm::num_panels`].
    pub panels: usize,
    /// Room for (8, m, n), read only by [`SumParts`].
    pub partials: DeviceSlice<'a, f32>,
}

impl Gemm<'_> {
    /// How many blocks take a tile, so that few tiles make use of many multiprocessors. Above 1, [`SumParts`] follows.
    pub fn num_splits(m: usize, n: usize, num_multiprocessors: usize) -> usize {
        let tiles = m.div_ceil(TILE) * n.div_ceil(TILE);
        let fits = |splits: &usize| m > SKINNY && tiles * splits <= num_multiprocessors;
        [8, 4, 2].into_iter().find(fits).unwrap_or(1)
    }

    /// How many panels of 16 columns of out a block makes, if there are few rows.
    pub fn num_panels(weight: GemmWeight<'_>, m: usize, n: usize, num_multiprocessors: usize) -> usize {
        if m > SKINNY {
            return 1;
        }
        weight.num_panels(m, num_multiprocessors, |panels| n.div_ceil(PANEL * panels))
    }

    /// Numbers in the partials of any product of up to `m` rows with up to `n` columns.
    pub fn most_partials(m: usize, n: usize, num_multiprocessors: usize) -> usize {
        PARTS * (m * n).min(num_multiprocessors / 2 * TILE * TILE)
    }

    fn m(&self) -> usize {
        self.x.len() / self.k
    }

    fn is_skinny(&self) -> bool {
        self.m() <= SKINNY
    }
}

/// Of the skinny kernels, the one for m rows.
fn kind(m: usize) -> usize {
    SKINNY_ROWS.partition_point(|&most| most < m)
}

impl Call for Gemm<'_> {
    fn kernel(&self) -> KernelId {
        use KernelId::*;
        let (narrow, wide, tiles) = match (self.weight, self.out) {
            (GemmWeight::Bf16(_), GemmOutput::Bf16(_)) => (
                [SkinnyGemmM8, SkinnyGemmM16, SkinnyGemmM32],
                [SkinnyGemmWideM8, SkinnyGemmWideM16, SkinnyGemmWideM32],
                Gemm,
            ),
            (GemmWeight::Bf16(_), GemmOutput::F32(_)) => (
                [SkinnyGemmF32M8, SkinnyGemmF32M16, SkinnyGemmF32M32],
                [SkinnyGemmF32WideM8, SkinnyGemmF32WideM16, SkinnyGemmF32WideM32],
                GemmF32,
            ),
            (GemmWeight::F16(_), GemmOutput::Bf16(_)) => (
                [SkinnyF16M8, SkinnyF16M16, SkinnyF16M32],
                [SkinnyF16WideM8, SkinnyF16WideM16, SkinnyF16WideM32],
                GemmF16,
            ),
            (GemmWeight::F16(_), GemmOutput::F32(_)) => (
                [SkinnyF16F32M8, SkinnyF16F32M16, SkinnyF16F32M32],
                [SkinnyF16F32WideM8, SkinnyF16F32WideM16, SkinnyF16F32WideM32],
                GemmF16F32,
            ),
            (GemmWeight::Int4 { .. }, GemmOutput::Bf16(_)) => (
                [SkinnyInt4M8, SkinnyInt4M16, SkinnyInt4M32],
                [SkinnyInt4WideM8, SkinnyInt4WideM16, SkinnyInt4WideM32],
                GemmInt4,
            ),
            (GemmWeight::Int4 { .. }, GemmOutput::F32(_)) => (
                [SkinnyInt4F32M8, SkinnyInt4F32M16, SkinnyInt4F32M32],
                [SkinnyInt4F32WideM8, SkinnyInt4F32WideM16, SkinnyInt4F32WideM32],
                GemmInt4F32,
            ),
            (GemmWeight::Int8 { .. }, GemmOutput::Bf16(_)) => (
                [SkinnyInt8M8, SkinnyInt8M16, SkinnyInt8M32],
                [SkinnyInt8WideM8, SkinnyInt8WideM16, SkinnyInt8WideM32],
                GemmInt8,
            ),
            (GemmWeight::Int8 { .. }, GemmOutput::F32(_)) => (
                [SkinnyInt8F32M8, SkinnyInt8F32M16, SkinnyInt8F32M32],
                [SkinnyInt8F32WideM8, SkinnyInt8F32WideM16, SkinnyInt8F32WideM32],
                GemmInt8F32,
            ),
            (GemmWeight::Min { bits: 4, .. }, GemmOutput::Bf16(_)) => (
                [SkinnyInt4MinM8, SkinnyInt4MinM16, SkinnyInt4MinM32],
                [SkinnyInt4MinWideM8, SkinnyInt4MinWideM16, SkinnyInt4MinWideM32],
                GemmInt4Min,
            ),
            (GemmWeight::Min { bits: 4, .. }, GemmOutput::F32(_)) => (
                [SkinnyInt4MinF32M8, SkinnyInt4MinF32M16, SkinnyInt4MinF32M32],
                [SkinnyInt4MinF32WideM8, SkinnyInt4MinF32WideM16, SkinnyInt4MinF32WideM32],
                GemmInt4MinF32,
            ),
            (GemmWeight::Min { .. }, GemmOutput::Bf16(_)) => (
                [SkinnyInt8MinM8, SkinnyInt8MinM16, SkinnyInt8MinM32],
                [SkinnyInt8MinWideM8, SkinnyInt8MinWideM16, SkinnyInt8MinWideM32],
                GemmInt8Min,
            ),
            (GemmWeight::Min { .. }, GemmOutput::F32(_)) => (
                [SkinnyInt8MinF32M8, SkinnyInt8MinF32M16, SkinnyInt8MinF32M32],
                [SkinnyInt8MinF32WideM8, SkinnyInt8MinF32WideM16, SkinnyInt8MinF32WideM32],
                GemmInt8MinF32,
            ),
            (GemmWeight::Mxfp4 { .. }, GemmOutput::Bf16(_)) => (
                [SkinnyMxfp4M8, SkinnyMxfp4M16, SkinnyMxfp4M32],
                [SkinnyMxfp4WideM8, SkinnyMxfp4WideM16, SkinnyMxfp4WideM32],
                GemmMxfp4,
            ),
            (GemmWeight::Mxfp4 { .. }, GemmOutput::F32(_)) => (
                [SkinnyMxfp4F32M8, SkinnyMxfp4F32M16, SkinnyMxfp4F32M32],
                [SkinnyMxfp4F32WideM8, SkinnyMxfp4F32WideM16, SkinnyMxfp4F32WideM32],
                GemmMxfp4F32,
            ),
        };
        match (self.is_skinny(), self.panels) {
            (true, 1) => narrow[kind(self.m())],
            (true, _) => wide[kind(self.m())],
            (false, _) => tiles,
        }
    }

    fn shape(&self) -> LaunchShape {
        let grid = match self.is_skinny() {
            true => [self.n.div_ceil(PANEL * self.panels), 1, 1],
            false => [self.m().div_ceil(TILE), self.n.div_ceil(TILE), self.splits],
        };
        blocks(grid, 256)
    }

    fn args(&self) -> Args {
        let (m, n, k) = (self.m(), self.n, self.k);
        assert!(k.is_multiple_of(8), "rows of {k} numbers are not aligned");
        assert_eq!((self.x.len(), self.out.len()), (m * k, m * n));
        self.weight.check(n, k);
        let sizes = [m.into(), n.into(), k.into()];
        let out = self.out.into();
        if self.is_skinny() {
            assert_eq!(self.splits, 1);
            let panels = self.panels;
            assert!(panels == 1 || self.weight.wide_panels(m).any(|wide| wide == panels), "{panels} panels in a block");
            return self.weight.args(self.x, &[out, sizes[0], sizes[1], sizes[2]]);
        }
        assert!(PARTS.is_multiple_of(self.splits), "{} parts for {} blocks", PARTS, self.splits);
        assert!(self.splits == 1 || self.partials.len() >= PARTS * m * n);
        self.weight.args(self.x, &[out, self.partials.into(), sizes[0], sizes[1], sizes[2]])
    }

    fn num_bytes(&self) -> u64 {
        halves(self.x.len()) + self.weight.num_bytes() + self.out.num_bytes()
    }
}

/// What the blocks of a [`Gemm`] that share tiles have left becomes its output.
pub struct SumParts<'a> {
    /// (8, m, n), or longer.
    pub partials: DeviceSlice<'a, f32>,
    pub out: GemmOutput<'a>,
}

impl Call for SumParts<'_> {
    fn kernel(&self) -> KernelId {
        match self.out {
            GemmOutput::Bf16(_) => KernelId::SumParts,
            GemmOutput::F32(_) => KernelId::SumPartsF32,
        }
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.out.len().div_ceil(256), 1, 1], 256)
    }

    fn args(&self) -> Args {
        assert!(self.partials.len() >= PARTS * self.out.len());
        [self.partials.into(), self.out.into(), Arg::I64(self.out.len() as i64)].into()
    }

    fn num_bytes(&self) -> u64 {
        words(PARTS * self.out.len()) + self.out.num_bytes()
    }
}
