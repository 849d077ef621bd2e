//! Matrix kernels beside the machine's limits, one thread: GB/s of weights for few rows, GOPS for many.
//! `cargo bench -p ferrule-engine --bench kernels`; FERRULE_ISA chooses the tier.

use std::hint::black_box;
use std::marker::PhantomData;
use std::time::Instant;

use ferrule_engine::config::EngineConfig;
use ferrule_engine::kernels::{Kernels, MatMut, QuantizedRows};
use ferrule_engine::quant::{DType, PackedMatrix, WeightArena};
use ferrule_engine::weights::TensorView;

/// Weights walked per measurement: more than the caches of a core, and done before the system takes it away.
const WORKING_SET: usize = 24 << 20;

const SHAPES: [(&str, usize, usize); 6] = [
    ("smollm2 q, o", 576, 576),
    ("smollm2 gate", 1536, 576),
    ("smollm2 down", 576, 1536),
    ("smollm2 head", 49152, 576),
    ("1B q, o", 2048, 2048),
    ("1B gate", 8192, 2048),
];

/// Seconds of the fastest of a few runs of about a tenth of a second in all.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let start = Instant::now();
    let mut best = f64::INFINITY;
    while start.elapsed().as_secs_f64() < 0.1 {
        let run = Instant::now();
        f();
        best = best.min(run.elapsed().as_secs_f64());
    }
    best
}

#[cfg(target_arch = "x86_64")]
mod limits {
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub fn vnni_ops(repeats: usize) -> (usize, i32) {
        let mut acc = [_mm512_setzero_si512(); 16];
        let (a, b) = (_mm512_set1_epi8(3), _mm512_set1_epi8(5));
        for _ in 0..repeats {
            for acc in &mut acc {
                *acc = _mm512_dpbusd_epi32(*acc, a, b);
                // SAFETY: empty; keeps the loop from being computed in advance.
                unsafe { std::arch::asm!("/* {0} */", inout(zmm_reg) * acc, options(nomem, nostack)) };
            }
        }
        let sum = acc.iter().fold(0, |sum, &acc| _mm512_reduce_add_epi32(acc).wrapping_add(sum));
        (repeats * 16 * 128, sum)
    }

    /// What four-bit codes need: pairs of products, added in 16 bits eight times before they are widened.
    #[target_feature(enable = "avx2")]
    pub fn maddubs_ops(repeats: usize) -> (usize, i32) {
        let (a, b) = (_mm256_set1_epi8(3), _mm256_set1_epi8(5));
        let mut sums = _mm256_setzero_si256();
        for _ in 0..repeats {
            let mut acc = [_mm256_setzero_si256(); 12];
            for _ in 0..8 {
                for acc in &mut acc {
                    let mut a = a;
                    // SAFETY: empty; keeps the product from being computed once for all.
                    unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) a, options(nomem, nostack)) };
                    *acc = _mm256_add_epi16(*acc, _mm256_maddubs_epi16(a, b));
                }
            }
            for acc in acc {
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(acc, _mm256_set1_epi16(1)));
            }
        }
        (repeats * 8 * 12 * 64, _mm256_extract_epi32::<0>(sums))
    }

    #[target_feature(enable = "avx2")]
    pub fn read(data: &[u64]) -> u64 {
        let mut sums = [0u64; 32];
        for chunk in data.chunks_exact(32) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum = sum.wrapping_add(*x);
            }
        }
        sums.iter().fold(0, |a, b| a.wrapping_add(*b))
    }
}

/// GOPS of the instructions that int8 products are made of; None where there are none.
fn int8_peak() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512vnni") {
        let ops = 200_000 * 16 * 128;
        // SAFETY: the feature was detected.
        let seconds = best(|| {
            // SAFETY: the feature was detected.
            black_box(unsafe { limits::vnni_ops(200_000) });
        });
        return Some(ops as f64 / seconds / 1e9);
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        let ops = 20_000 * 8 * 12 * 64;
        // SAFETY: the feature was detected.
        let seconds = best(|| {
            // SAFETY: the feature was detected.
            black_box(unsafe { limits::maddubs_ops(20_000) });
        });
        return Some(ops as f64 / seconds / 1e9);
    }
    None
}

/// GB/s of plain reads of as many bytes.
fn read_speed(bytes: usize) -> f64 {
    let data = vec![1u64; bytes / 8];
    let seconds = best(|| {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected.
            black_box(unsafe { limits::read(black_box(&data)) });
            return;
        }
        black_box(black_box(&data).iter().fold(0u64, |a, b| a.wrapping_add(*b)));
    });
    bytes as f64 / seconds / 1e9
}

/// Seconds to pack what a model's loader packs, one thread.
fn report_pack(dtype: DType, rows: usize, cols: usize) {
    let bytes = vec![0x21; rows * dtype.row_bytes(cols).expect("whole blocks")];
    let view = TensorView { name: "w", dtype, shape: vec![rows, cols], bytes: bytes.as_slice().into() };
    let seconds = best(|| drop(PackedMatrix::pack(&view, rows, &|row| row)));
    println!("pack {dtype:5} {rows}x{cols}: {:.2} GB/s", bytes.len() as f64 / seconds / 1e9);
}

fn matrix(arena: &WeightArena, dtype: DType, rows: usize, cols: usize) -> PackedMatrix {
    let len = rows * dtype.row_bytes(cols).expect("whole blocks");
    // Bytes 0x20 to 0x2f make every field of a float a normal number below 1; blocks are equal, as are scales of a row.
    let bytes: Vec<u8> = (0..len).map(|i| 0x20 + (i % dtype.block_bytes() * 7 % 16) as u8).collect();
    let view = TensorView { name: "w", dtype, shape: vec![rows, cols], bytes: bytes.as_slice().into() };
    let matrix = PackedMatrix::zeroed_in(arena, dtype, rows, cols).expect("memory for weights");
    // SAFETY: one thread.
    unsafe { matrix.pack_panels(&view, &|row| row, 0..matrix.num_panels()) };
    matrix
}

/// Seconds per matrix with `rows` rows of activations, walking over `copies` of it.
fn time(kernels: Kernels, copies: &[PackedMatrix], rows: usize, int8: bool) -> f64 {
    let w = &copies[0];
    let x: Vec<f32> = (0..rows * w.cols()).map(|i| (i % 13) as f32 - 6.0).collect();
    let mut quantized = if w.dtype() == DType::I8_ROW { QuantizedRows::wide() } else { QuantizedRows::default() };
    quantized.resize(rows, w.cols());
    for (row, x) in x.chunks_exact(w.cols()).enumerate() {
        // SAFETY: one thread.
        unsafe { kernels.quantize(x, &quantized, row, 0) };
    }
    let mut out = vec![0f32; rows * w.rows()];
    let seconds = best(|| {
        for w in copies {
            let out = MatMut { ptr: out.as_mut_ptr(), rows, stride: w.rows(), _life: PhantomData };
            // SAFETY: one thread; shapes agree.
            unsafe {
                match int8 {
                    true => kernels.matmul_int8(w, 0..w.num_panels(), &quantized, 0..rows, out),
                    false => kernels.matmul_f32(w, 0..w.num_panels(), &x, 0..rows, out),
                }
            }
        }
    });
    seconds / copies.len() as f64
}

fn report(kernels: Kernels, dtype: DType, shape: (&str, usize, usize), peak: Option<f64>) {
    let (name, rows, cols) = shape;
    let arena = WeightArena::default();
    let first = matrix(&arena, dtype, rows, cols);
    let bytes = first.num_bytes();
    let copies: Vec<_> = std::iter::once(first)
        .chain((1..WORKING_SET.div_ceil(bytes)).map(|_| matrix(&arena, dtype, rows, cols)))
        .collect();
    let int8 = dtype.block_len() > 1;
    let read = read_speed(bytes * copies.len());
    let few: Vec<String> = [1, 2, 3, 4]
        .iter()
        .map(|&m| {
            let speed = bytes as f64 / time(kernels, &copies, m, int8) / 1e9;
            format!("M={m} {speed:5.1} GB/s ({:3.0} %)", 100.0 * speed / read)
        })
        .collect();
    let many: Vec<String> = [16, 128]
        .iter()
        .map(|&m| {
            let speed = (2 * rows * cols * m) as f64 / time(kernels, &copies[..1], m, int8) / 1e9;
            let share =
                peak.filter(|_| int8).map_or(String::new(), |peak| format!(" ({:2.0} %)", 100.0 * speed / peak));
            format!("M={m} {speed:6.1} GOPS{share}")
        })
        .collect();
    println!("{dtype:5} {name:12} {rows:5}x{cols:<4} read {read:5.1} GB/s  {}  {}", few.join("  "), many.join("  "));
}

fn main() {
    let isa = EngineConfig::default().isa().expect("FERRULE_ISA names a tier");
    let kernels = Kernels::new(isa).expect("the machine has the tier");
    let peak = int8_peak();
    println!("tier {}, int8 peak {}", kernels.isa(), peak.map_or("unknown".into(), |p| format!("{p:.0} GOPS")));
    for dtype in [DType::Q4_1, DType::Q8_0, DType::Q5_0, DType::Q4_K, DType::Q6_K, DType::BF16] {
        report_pack(dtype, 4096, 1536);
    }
    let only = std::env::args().nth(1).filter(|arg| !arg.starts_with('-'));
    let dtypes =
        [DType::Q4_0, DType::Q4_1, DType::Q8_0, DType::I8_ROW, DType::Q5_0, DType::Q4_K, DType::Q6_K, DType::BF16];
    for dtype in dtypes {
        if only.as_ref().is_some_and(|only| only != dtype.name()) {
            continue;
        }
        for shape in SHAPES.into_iter().filter(|shape| shape.2 % dtype.block_len() == 0) {
            report(kernels, dtype, shape, peak);
        }
    }
}
