//! Attention on one thread: decode in GB/s of cache beside a plain read of the same bytes, and in microseconds;
//! prefill in GFLOP/s beside the fused multiply-adds that the core can do.
//!
//! `cargo bench --bench attention [-- TYPE ...]`, where TYPE is that of a cache; FERRULE_ISA chooses the tier.

use std::hint::black_box;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use ferrule_engine::config::{EngineConfig, Isa, KvDtype};
use ferrule_engine::ids::{BlockId, EXTENT_BLOCKS};
use ferrule_engine::kernels::{AttentionTask, BLOCK_SIZE, Kernels, KvLayer, KvShape, NextRead};

/// More than the caches that one core gets a fair share of.
const CACHE_BYTES: usize = 384 << 20;
const HEADS: [(usize, usize, usize); 4] = [(3, 3, 64), (8, 4, 64), (8, 4, 128), (1, 4, 256)];

#[derive(Clone)]
#[repr(align(64))]
struct Line([u64; 8]);

/// The types of caches to measure: those named, or all.
fn dtypes() -> Vec<KvDtype> {
    let named: Vec<_> = std::env::args().skip(1).filter_map(|name| name.parse().ok()).collect();
    match named.is_empty() {
        true => vec![KvDtype::Bf16, KvDtype::F16, KvDtype::Int8, KvDtype::Fp8, KvDtype::F32],
        false => named,
    }
}

fn main() {
    let dtypes = dtypes();
    let isa = EngineConfig::default().isa().expect("FERRULE_ISA names a tier");
    let kernels = Kernels::new(isa).expect("the machine has the tier");
    let mut memory = memmap2::MmapMut::map_anon(CACHE_BYTES + 64).expect("the cache fits into memory");
    #[cfg(target_os = "linux")]
    memory.advise(memmap2::Advice::HugePage).expect("advice on our own mapping");
    // SAFETY: any bytes make lines.
    let (_, memory, _) = unsafe { memory.align_to_mut::<Line>() };
    // As f32 and bf16 about 0.01, as f16 and fp8 about 1.
    memory.fill(Line([0x3c23_3c23_3c23_3c23; 8]));
    let read = read_bandwidth(kernels.isa(), memory);
    let peak = multiply_add_peak(kernels.isa());
    println!("{}, 1 thread: read {read:.1} GB/s, multiply-add {peak:.0} GFLOP/s", kernels.isa());
    for (num_kv_heads, group, head_dim) in HEADS {
        for &dtype in &dtypes {
            let shape = KvShape { dtype, num_kv_heads, head_dim };
            println!("{dtype}, {num_kv_heads} KV heads x {group} query heads of {head_dim}");
            for ctx in [1024, 4096, 16_384] {
                let rate = decode(&kernels, memory, shape, group, ctx);
                let micros = (ctx / BLOCK_SIZE * shape.block_bytes()) as f64 / rate / 1e3;
                let share = 100.0 * rate / read;
                println!("  decode at {ctx:5}: {rate:5.1} GB/s, {share:3.0} % of read, {micros:6.0} us");
            }
            let rate = prefill(&kernels, memory, shape, group, 512);
            println!("  prefill of 512: {rate:5.0} GFLOP/s, {:3.0} % of multiply-add", 100.0 * rate / peak);
        }
    }
}

/// Units of work per second of this thread's processor time (so that programs beside it do not count): the
/// median over half a second of calls, each answering how much it did.
fn rate(mut work: impl FnMut(usize) -> f64) -> f64 {
    let (begin, mut rates) = (Instant::now(), Vec::new());
    while begin.elapsed() < Duration::from_millis(500) || rates.len() < 10 {
        let start = thread_time();
        let amount = work(rates.len());
        rates.push(amount / (thread_time() - start));
    }
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn thread_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(failed, 0, "the system counts processor time");
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn read_bandwidth(isa: Isa, memory: &[Line]) -> f64 {
    let pieces: Vec<_> = memory.chunks(1 << 14).collect();
    rate(|i| {
        let piece = pieces[i % pieces.len()];
        black_box(match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has AVX2 if it has one of these tiers.
            Isa::Avx2 | Isa::Avx512 | Isa::Avx512Bf16 => unsafe { read_avx2(piece) },
            _ => read(piece),
        });
        size_of_val(piece) as f64 / 1e9
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn read_avx2(lines: &[Line]) -> [u64; 32] {
    read(lines)
}

#[inline(always)]
fn read(lines: &[Line]) -> [u64; 32] {
    let mut sums = [0u64; 32];
    for lines in lines.chunks_exact(4) {
        for i in 0..32 {
            sums[i] ^= lines[i / 8].0[i % 8];
        }
    }
    sums
}

/// Twelve independent chains of vector multiply-adds, which fit the registers: the result is FLOP.
#[cfg(target_arch = "x86_64")]
macro_rules! multiply_adds {
    ($name:ident, $features:literal, $splat:ident, $multiply_add:ident, $class:ident, $width:literal) => {
        #[target_feature(enable = $features)]
        fn $name() -> f64 {
            use std::arch::x86_64::*;
            const STEPS: usize = 20_000;
            let mut sums = [$splat(0.5); 12];
            let factor = $splat(0.999);
            for _ in 0..STEPS {
                for sum in &mut sums {
                    *sum = $multiply_add(*sum, factor, factor);
                    // SAFETY: empty; keeps the chains apart.
                    unsafe { std::arch::asm!("/* {0} */", inout($class) * sum, options(nomem, nostack)) };
                }
            }
            black_box(sums);
            (2 * 12 * $width * STEPS) as f64
        }
    };
}
#[cfg(target_arch = "x86_64")]
multiply_adds!(avx512, "avx512f", _mm512_set1_ps, _mm512_fmadd_ps, zmm_reg, 16);
#[cfg(target_arch = "x86_64")]
multiply_adds!(avx2, "avx2,fma", _mm256_set1_ps, _mm256_fmadd_ps, ymm_reg, 8);

/// GFLOP/s of the tier's multiply-adds; NaN where there are none.
fn multiply_add_peak(isa: Isa) -> f64 {
    match isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the tier.
        Isa::Avx512 | Isa::Avx512Bf16 => rate(|_| unsafe { avx512() } / 1e9),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the machine has the tier.
        Isa::Avx2 => rate(|_| unsafe { avx2() } / 1e9),
        _ => f64::NAN,
    }
}

fn decode(kernels: &Kernels, memory: &mut [Line], shape: KvShape, group: usize, ctx: usize) -> f64 {
    let per_layer = ctx / BLOCK_SIZE;
    let blocks = scattered(CACHE_BYTES / shape.block_bytes());
    let tables: Vec<_> = blocks.chunks_exact(per_layer).collect();
    let mut queries = Queries::new(shape, group, ctx - 1, 1);
    rate(|i| {
        queries.attend(kernels, memory, tables[i % tables.len()], tables[(i + 1) % tables.len()]);
        (per_layer * shape.block_bytes()) as f64 / 1e9
    })
}

fn prefill(kernels: &Kernels, memory: &mut [Line], shape: KvShape, group: usize, len: usize) -> f64 {
    let blocks = scattered(len / BLOCK_SIZE);
    let pairs = len * (len + 1) / 2 * shape.num_kv_heads * group;
    let mut queries = Queries::new(shape, group, 0, len);
    rate(|_| {
        queries.attend(kernels, memory, &blocks, &blocks);
        (4 * pairs * shape.head_dim) as f64 / 1e9
    })
}

/// Block ids in runs of an extent, the runs in no order.
fn scattered(num_blocks: usize) -> Vec<BlockId> {
    let mut ids: Vec<u32> = (0..num_blocks as u32).collect();
    ids.sort_by_key(|id| ((id / EXTENT_BLOCKS as u32).wrapping_mul(2_654_435_761), *id));
    ids.into_iter().map(BlockId).collect()
}

/// Consecutive queries of one sequence, all heads.
struct Queries {
    shape: KvShape,
    group: usize,
    start: usize,
    num: usize,
    /// (num, heads * head_dim)
    q: Vec<f32>,
    out: Vec<f32>,
    scratch: Vec<f32>,
}

impl Queries {
    fn new(shape: KvShape, group: usize, start: usize, num: usize) -> Self {
        let len = num * shape.num_kv_heads * group * shape.head_dim;
        Self { shape, group, start, num, q: vec![0.1; len], out: vec![0.0; len], scratch: Vec::new() }
    }

    /// In tasks of 64 queries; `next` is what the next call attends to.
    fn attend(&mut self, kernels: &Kernels, memory: &mut [Line], blocks: &[BlockId], next: &[BlockId]) {
        let Self { shape, group, .. } = *self;
        let num_blocks = CACHE_BYTES / shape.block_bytes();
        let kv = KvLayer {
            ptr: memory.as_mut_ptr().cast(),
            extent_stride: EXTENT_BLOCKS * shape.block_bytes(),
            num_blocks,
            shape,
            _life: PhantomData,
        };
        let stride = shape.num_kv_heads * group * shape.head_dim;
        for first in (0..self.num).step_by(64) {
            for kv_head in 0..shape.num_kv_heads {
                let next = match kv_head + 1 {
                    head if head < shape.num_kv_heads => NextRead { blocks, first_block: 0, kv_head: head },
                    _ => NextRead { blocks: next, first_block: 0, kv_head: 0 },
                };
                let task = AttentionTask {
                    kv,
                    kv_head,
                    group,
                    blocks,
                    first_block: 0,
                    start: self.start + first,
                    num_queries: 64.min(self.num - first),
                    window: None,
                    next: Some(next),
                    scale: 0.125,
                    softcap: None,
                    q: self.q[first * stride..].as_ptr(),
                    q_stride: stride,
                    q_rows: None,
                    prefix: None,
                    out: self.out[first * stride..].as_mut_ptr(),
                    out_stride: stride,
                };
                // SAFETY: the task's pointers are to memory of its shape, all of which holds numbers.
                unsafe { kernels.attention(&task, &mut self.scratch) };
            }
        }
        black_box(&self.out);
    }
}
