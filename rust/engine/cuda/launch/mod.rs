//! One type per kernel: its arguments, the shapes that they must have, its grid, and the bytes that it moves.

mod activation;
mod attention;
mod batch;
mod columns;
mod embed;
mod gemm;
mod kv;
mod logits;
mod moe;
mod norm;
mod rope;
mod table;

use std::cell::Cell;
use std::sync::Arc;

pub use activation::GatedActivation;
pub use attention::{AttentionShape, Batch, DecodeAttention, MergeSplits, PrefillAttention, Queries};
pub use batch::AdvanceBatch;
pub use columns::{MAX_ORDERED, OrderColumns};
pub use embed::{Embed, EmbedTable};
pub use gemm::{Gemm, GemmOutput, GemmWeight, SumParts};
pub use kv::CopyBlocks;
pub use logits::{EditLogits, Sample, Softcap};
pub use moe::{CombineEntries, GatherEntries, GroupedGemm, MAX_EXPERTS, MAX_PER_TOKEN, RouteTokens, SortEntries};
pub use norm::{AddRmsNorm, RmsNorm};
pub use rope::RopeAndStore;
pub use table::{KernelId, SOURCES, Source};

use super::driver::{Arg, Context, Kernel, LaunchShape, Module, Stream};
use crate::error::Result;

/// Most parameters of a kernel.
const MAX_ARGS: usize = 16;

/// The arguments of a kernel, in order.
#[derive(Debug, Clone, Copy)]
pub struct Args {
    list: [Arg; MAX_ARGS],
    len: usize,
}

impl<const N: usize> From<[Arg; N]> for Args {
    fn from(args: [Arg; N]) -> Self {
        let mut list = [Arg::I32(0); MAX_ARGS];
        list[..N].copy_from_slice(&args);
        Self { list, len: N }
    }
}

impl Args {
    /// Adds more behind them.
    fn extend(&mut self, args: &[Arg]) -> &mut Self {
        self.list[self.len..][..args.len()].copy_from_slice(args);
        self.len += args.len();
        self
    }
}

/// A kernel with its arguments.
pub trait Call {
    fn kernel(&self) -> KernelId;

    /// Without the dynamic shared memory, which `SOURCES` has.
    fn shape(&self) -> LaunchShape;

    /// In the kernel's order. Panics where a buffer does not have the shape that the kernel expects.
    fn args(&self) -> Args;

    /// Bytes that it must read and write, each counted once.
    fn num_bytes(&self) -> u64;
}

/// All kernels on a device.
#[derive(Debug)]
pub struct Kernels {
    /// By `KernelId`, each with its dynamic shared memory.
    kernels: Vec<(Kernel, u32)>,
    bytes: Cell<u64>,
}

impl Kernels {
    /// `image` compiles a source, or has it compiled.
    pub fn load(context: &Arc<Context>, mut image: impl FnMut(&Source) -> Result<Vec<u8>>) -> Result<Self> {
        let mut kernels = Vec::new();
        for source in SOURCES {
            let module = Module::load(context, &image(source)?)?;
            for &(name, shared_bytes) in source.kernels {
                kernels.push((module.kernel(name, shared_bytes)?, shared_bytes));
            }
        }
        Ok(Self { kernels, bytes: Cell::new(0) })
    }

    /// Puts the call in the stream.
    pub fn launch(&self, call: &impl Call, stream: &Stream) -> Result<()> {
        let args = call.args();
        self.bytes.set(self.bytes.get() + call.num_bytes());
        let (kernel, shared_bytes) = &self.kernels[call.kernel() as usize];
        let shape = LaunchShape { shared_bytes: *shared_bytes, ..call.shape() };
        // SAFETY: `args` asserted that the buffers have the kernel's shapes, and they outlive the work: freeing waits.
        unsafe { kernel.launch(stream, &shape, &args.list[..args.len]) }
    }

    /// Bytes that the calls since the last question move.
    pub fn take_bytes(&self) -> u64 {
        self.bytes.take()
    }
}

/// Blocks of `block` threads.
fn blocks(grid: [usize; 3], block: u32) -> LaunchShape {
    let grid = grid.map(|side| u32::try_from(side).expect("grids are far below 2^32"));
    LaunchShape { grid, block, shared_bytes: 0 }
}

/// Bytes of `n` numbers of 4 bytes.
fn words(n: usize) -> u64 {
    4 * n as u64
}

/// Bytes of `n` numbers of 2 bytes.
fn halves(n: usize) -> u64 {
    2 * n as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_by_their_place_in_the_table() {
        let names: Vec<_> = SOURCES.iter().flat_map(|source| source.kernels).map(|&(name, _)| name).collect();
        for (id, name) in [
            (KernelId::Embed, "ferrule_embed"),
            (KernelId::MergeSplits, "ferrule_merge_splits"),
            (KernelId::SkinnyGemmF32M8, "ferrule_skinny_gemm_f32_m8"),
            (KernelId::CopyBlocks, "ferrule_copy_blocks"),
        ] {
            assert_eq!(names[id as usize], name);
        }
        assert_eq!(names.len(), KernelId::CopyBlocks as usize + 1);
    }
}
