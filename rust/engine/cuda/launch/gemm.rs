//! Products with weight matrices.

use half::bf16;

use super::{Args, Call, KernelId, blocks, halves, words};
use crate::cuda::driver::{DeviceSlice, LaunchShape};

/// Side of the large kernel's tile.
const TILE: usize = 128;
/// Rows of weights that a block of the skinny kernels takes.
const SKINNY_ROWS: usize = 16;

/// Where a product goes.
#[derive(Clone, Copy)]
pub enum GemmOutput<'a> {
    /// (m, n)
    Bf16(DeviceSlice<'a, bf16>),
    /// (m, n)
    F32(DeviceSlice<'a, f32>),
}

/// out = x · weightᵀ. Few rows are multiplied by kernels that read the weights once.
pub struct Gemm<'a> {
    /// (m, k)
    pub x: DeviceSlice<'a, bf16>,
    /// (n, k)
    pub weight: DeviceSlice<'a, bf16>,
    pub out: GemmOutput<'a>,
    pub k: usize,
}

impl Gemm<'_> {
    fn m(&self) -> usize {
        self.x.len() / self.k
    }

    fn n(&self) -> usize {
        self.weight.len() / self.k
    }
}

impl Call for Gemm<'_> {
    fn kernel(&self) -> KernelId {
        use KernelId::*;
        let kernels = match self.out {
            GemmOutput::Bf16(_) => [SkinnyGemm8, SkinnyGemm16, SkinnyGemm32, Gemm],
            GemmOutput::F32(_) => [SkinnyGemmF32M8, SkinnyGemmF32M16, SkinnyGemmF32M32, GemmF32],
        };
        kernels[[8, 16, 32].partition_point(|&most| most < self.m())]
    }

    fn shape(&self) -> LaunchShape {
        match self.m() <= 32 {
            true => blocks([self.n().div_ceil(SKINNY_ROWS), 1, 1], 128),
            false => blocks([self.m().div_ceil(TILE), self.n().div_ceil(TILE), 1], 256),
        }
    }

    fn args(&self) -> Args {
        let (m, n) = (self.m(), self.n());
        assert!(self.k.is_multiple_of(8), "rows of {} numbers are not aligned", self.k);
        assert_eq!((self.x.len(), self.weight.len()), (m * self.k, n * self.k));
        let (out, len) = match self.out {
            GemmOutput::Bf16(out) => (out.into(), out.len()),
            GemmOutput::F32(out) => (out.into(), out.len()),
        };
        assert_eq!(len, m * n);
        [self.x.into(), self.weight.into(), out, m.into(), n.into(), self.k.into()].into()
    }

    fn num_bytes(&self) -> u64 {
        let out = match self.out {
            GemmOutput::Bf16(out) => halves(out.len()),
            GemmOutput::F32(out) => words(out.len()),
        };
        halves(self.x.len() + self.weight.len()) + out
    }
}
