//! Mixtures of experts. A token has an entry per expert that it takes; rows of entries are in the order of experts.

use half::bf16;

use super::gemm::{PANEL, SKINNY, TILE};
use super::{Args, Call, GemmWeight, KernelId, blocks, halves, words};
use crate::cuda::driver::{DeviceSlice, LaunchShape};
use crate::model::ExpertsConfig;

/// Most experts of a layer, and most of a token.
pub const MAX_EXPERTS: usize = 256;
pub const MAX_PER_TOKEN: usize = 32;

/// The experts with the largest logits, and their shares.
pub struct RouteTokens<'a> {
    /// (num_tokens, count)
    pub logits: DeviceSlice<'a, f32>,
    /// (num_tokens, per_token)
    pub picked: DeviceSlice<'a, i32>,
    /// (num_tokens, per_token)
    pub shares: DeviceSlice<'a, f32>,
    pub experts: ExpertsConfig,
}

impl Call for RouteTokens<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::MoeRoute
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.logits.len() / self.experts.count, 1, 1], 32)
    }

    fn args(&self) -> Args {
        let ExpertsConfig { count, per_token, normalized } = self.experts;
        assert!(count <= MAX_EXPERTS && per_token <= MAX_PER_TOKEN.min(count), "{:?}", self.experts);
        let num_tokens = self.logits.len() / count;
        assert_eq!(self.logits.len(), num_tokens * count);
        assert_eq!((self.picked.len(), self.shares.len()), (num_tokens * per_token, num_tokens * per_token));
        let normalized = usize::from(normalized);
        let sizes = [count, per_token, normalized].map(Into::into);
        let mut args = Args::from([self.logits.into(), self.picked.into(), self.shares.into()]);
        *args.extend(&sizes)
    }

    fn num_bytes(&self) -> u64 {
        words(self.logits.len() + self.picked.len() + self.shares.len())
    }
}

/// Where every entry's row is.
pub struct SortEntries<'a> {
    /// (num_entries,)
    pub picked: DeviceSlice<'a, i32>,
    /// (count + 1,)
    pub starts: DeviceSlice<'a, i32>,
    /// (num_entries,)
    pub rows: DeviceSlice<'a, i32>,
}

impl Call for SortEntries<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::MoeSort
    }

    fn shape(&self) -> LaunchShape {
        blocks([1, 1, 1], MAX_EXPERTS as u32)
    }

    fn args(&self) -> Args {
        assert!(self.starts.len() <= MAX_EXPERTS + 1);
        assert_eq!(self.rows.len(), self.picked.len());
        let [entries, count] = [self.picked.len(), self.starts.len() - 1].map(Into::into);
        [self.picked.into(), self.starts.into(), self.rows.into(), entries, count].into()
    }

    fn num_bytes(&self) -> u64 {
        words(2 * self.picked.len() + self.starts.len())
    }
}

/// Tokens' activations to the rows of their entries.
pub struct GatherEntries<'a> {
    /// (num_tokens, width)
    pub x: DeviceSlice<'a, bf16>,
    /// (num_entries,)
    pub rows: DeviceSlice<'a, i32>,
    /// (num_entries, width)
    pub sorted: DeviceSlice<'a, bf16>,
    pub width: usize,
    pub per_token: usize,
}

impl Call for GatherEntries<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::MoeGather
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.rows.len(), 1, 1], 128)
    }

    fn args(&self) -> Args {
        assert!(self.width.is_multiple_of(8), "rows of {} numbers are not aligned", self.width);
        assert_eq!(self.sorted.len(), self.rows.len() * self.width);
        assert_eq!(self.x.len() * self.per_token, self.sorted.len());
        [self.x.into(), self.rows.into(), self.sorted.into(), self.width.into(), self.per_token.into()].into()
    }

    fn num_bytes(&self) -> u64 {
        halves(self.x.len() + self.sorted.len()) + words(self.rows.len())
    }
}

/// With at most this many rows for an expert on average, their products are made by kernels for few rows.
const FEW: usize = 8;

/// Every expert's rows times its matrix. An element's bits depend neither on the kernel nor on the other rows.
pub struct GroupedGemm<'a> {
    /// (num_entries, k)
    pub x: DeviceSlice<'a, bf16>,
    /// Of all experts: (count * n, k)
    pub weight: GemmWeight<'a>,
    /// (count + 1,)
    pub starts: DeviceSlice<'a, i32>,
    /// (num_entries, n)
    pub out: DeviceSlice<'a, bf16>,
    pub n: usize,
    pub k: usize,
    /// Most rows of an expert: the tokens of the step.
    pub most_rows: usize,
    /// See [`super::Gemm::num_panels`].
    pub num_multiprocessors: usize,
}

impl GroupedGemm<'_> {
    fn count(&self) -> usize {
        self.starts.len() - 1
    }

    /// How many rows a block takes at once, where those are few.
    fn skinny(&self) -> Option<usize> {
        match self.most_rows {
            ..=8 => Some(8),
            9..=SKINNY => Some(SKINNY),
            _ => (self.x.len() / self.k <= FEW * self.count()).then_some(SKINNY),
        }
    }

    /// Panels of a block for few rows. A token's experts at least have some.
    fn num_panels(&self, rows: usize) -> usize {
        let per_token = self.x.len() / self.k / self.most_rows;
        let blocks = |panels| self.n.div_ceil(PANEL * panels) * per_token;
        self.weight.num_panels(rows, self.num_multiprocessors, blocks)
    }
}

impl Call for GroupedGemm<'_> {
    fn kernel(&self) -> KernelId {
        use KernelId::*;
        let (narrow, wide, tiles) = match self.weight {
            GemmWeight::Bf16(_) => {
                ([GroupedSkinnyM8, GroupedSkinnyM32], [GroupedSkinnyWideM8, GroupedSkinnyWideM32], GroupedGemm)
            }
            GemmWeight::F16(_) => (
                [GroupedSkinnyF16M8, GroupedSkinnyF16M32],
                [GroupedSkinnyF16WideM8, GroupedSkinnyF16WideM32],
                GroupedGemmF16,
            ),
            GemmWeight::Int4 { .. } => (
                [GroupedSkinnyInt4M8, GroupedSkinnyInt4M32],
                [GroupedSkinnyInt4WideM8, GroupedSkinnyInt4WideM32],
                GroupedGemmInt4,
            ),
            GemmWeight::Int8 { .. } => (
                [GroupedSkinnyInt8M8, GroupedSkinnyInt8M32],
                [GroupedSkinnyInt8WideM8, GroupedSkinnyInt8WideM32],
                GroupedGemmInt8,
            ),
            GemmWeight::Min { bits: 4, .. } => (
                [GroupedSkinnyInt4MinM8, GroupedSkinnyInt4MinM32],
                [GroupedSkinnyInt4MinWideM8, GroupedSkinnyInt4MinWideM32],
                GroupedGemmInt4Min,
            ),
            GemmWeight::Min { .. } => (
                [GroupedSkinnyInt8MinM8, GroupedSkinnyInt8MinM32],
                [GroupedSkinnyInt8MinWideM8, GroupedSkinnyInt8MinWideM32],
                GroupedGemmInt8Min,
            ),
            GemmWeight::Mxfp4 { .. } => (
                [GroupedSkinnyMxfp4M8, GroupedSkinnyMxfp4M32],
                [GroupedSkinnyMxfp4WideM8, GroupedSkinnyMxfp4WideM32],
                GroupedGemmMxfp4,
            ),
        };
        let Some(rows) = self.skinny() else { return tiles };
        let kernels = if self.num_panels(rows) > 1 { wide } else { narrow };
        kernels[usize::from(rows > 8)]
    }

    fn shape(&self) -> LaunchShape {
        let grid = match self.skinny() {
            Some(rows) => [self.n.div_ceil(PANEL * self.num_panels(rows)), self.count(), self.most_rows.div_ceil(rows)],
            None => [self.most_rows.div_ceil(TILE), self.n.div_ceil(TILE), self.count()],
        };
        blocks(grid, 256)
    }

    fn args(&self) -> Args {
        let &Self { x, weight, starts, out, n, k, .. } = self;
        assert!(k.is_multiple_of(8), "rows of {k} numbers are not aligned");
        assert_eq!((x.len() / k * k, x.len() / k * n), (x.len(), out.len()));
        weight.check(self.count() * n, k);
        assert!(
            matches!(weight, GemmWeight::Bf16(_) | GemmWeight::F16(_)) || n.is_multiple_of(16),
            "{n} rows are no whole panels"
        );
        weight.args(x, &[starts.into(), out.into(), n.into(), k.into()])
    }

    fn num_bytes(&self) -> u64 {
        let entries = self.x.len() / self.k;
        let read = self.weight.num_bytes() / self.count() as u64 * entries.min(self.count()) as u64;
        halves(self.x.len() + self.out.len()) + read + words(self.starts.len())
    }
}

/// The sum of what a token's experts make of it, each times its share.
pub struct CombineEntries<'a> {
    /// (num_entries, width)
    pub sorted: DeviceSlice<'a, bf16>,
    /// (num_tokens, per_token)
    pub rows: DeviceSlice<'a, i32>,
    /// (num_tokens, per_token)
    pub shares: DeviceSlice<'a, f32>,
    /// (num_tokens, width)
    pub out: DeviceSlice<'a, bf16>,
    pub width: usize,
    pub per_token: usize,
}

impl Call for CombineEntries<'_> {
    fn kernel(&self) -> KernelId {
        KernelId::MoeCombine
    }

    fn shape(&self) -> LaunchShape {
        blocks([self.width.div_ceil(512), self.rows.len() / self.per_token, 1], 128)
    }

    fn args(&self) -> Args {
        assert!(self.width.is_multiple_of(4), "rows of {} numbers are not aligned", self.width);
        assert_eq!((self.sorted.len(), self.shares.len()), (self.rows.len() * self.width, self.rows.len()));
        assert_eq!(self.out.len() * self.per_token, self.sorted.len());
        let sizes = [self.width, self.per_token].map(Into::into);
        let mut args = Args::from([self.sorted.into(), self.rows.into(), self.shares.into(), self.out.into()]);
        *args.extend(&sizes)
    }

    fn num_bytes(&self) -> u64 {
        halves(self.sorted.len() + self.out.len()) + words(2 * self.rows.len())
    }
}
