//! Packed matrices and matrix kernels: by two roads, on random shapes, in every tier of this machine.

use std::marker::PhantomData;
use std::ops::Range;

use ferrule_engine::config::Isa;
use ferrule_engine::kernels::{Bf16Rows, Kernels, MatMut, OutlierRows, Outliers, QuantizedRows};
use ferrule_engine::quant::{DType, PackedMatrix, dequantize};
use ferrule_engine::weights::TensorView;
use half::{bf16, f16};
use proptest::prelude::*;

const QUANTIZED: [DType; 21] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ4_NL,
    DType::IQ4_XS,
    DType::MXFP4,
    DType::I4G32,
    DType::I4G64,
    DType::I4G128,
    DType::U4G32,
    DType::U4G64,
    DType::U4G128,
    DType::U8G32,
    DType::I8_ROW,
];
const DENSE: [DType; 4] = [DType::F32, DType::F16, DType::BF16, DType::F8_E4M3];

/// What products with bf16 activations serve.
const BY_BF16: [DType; QUANTIZED.len() + 2] = {
    let mut all = [DType::BF16; QUANTIZED.len() + 2];
    let mut i = 0;
    while i < QUANTIZED.len() {
        all[i] = QUANTIZED[i];
        i += 1;
    }
    all[i] = DType::F16;
    all
};

/// SplitMix64 (Steele et al. 2014).
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In [-1, 1).
    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Where the f16 numbers of a block lie.
fn f16_fields(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL | DType::IQ4_XS => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
        DType::Q2_K => &[80, 82],
        DType::Q3_K => &[108],
        DType::Q6_K => &[208],
        DType::I4G32 | DType::I4G64 | DType::I4G128 | DType::U4G32 | DType::U4G64 | DType::U4G128 | DType::U8G32 => {
            &[0]
        }
        _ => &[],
    }
}

/// A file's tensor with random codes and finite scales.
fn tensor_bytes(dtype: DType, rows: usize, cols: usize, rng: &mut Rng) -> Vec<u8> {
    if !DENSE.contains(&dtype) {
        let len = rows * dtype.row_bytes(cols).unwrap();
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
        if dtype == DType::I8_ROW {
            let blocks = cols / dtype.block_len();
            for row in bytes.chunks_exact_mut(blocks * dtype.block_bytes()) {
                let scale = (rng.float() * 0.1).to_le_bytes();
                row.chunks_exact_mut(dtype.block_bytes()).for_each(|block| block[..4].copy_from_slice(&scale));
            }
        }
        for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
            for &at in f16_fields(dtype) {
                block[at..at + 2].copy_from_slice(&f16::from_f32(rng.float() * 0.1).to_le_bytes());
            }
            if dtype == DType::MXFP4 {
                // Powers of two below 1.
                block[0] = 120 + block[0] % 8;
            }
        }
        return bytes;
    }
    let numbers = rng.floats(rows * cols);
    match dtype {
        DType::F32 => numbers.iter().flat_map(|x| x.to_le_bytes()).collect(),
        DType::F8_E4M3 => numbers
            .chunks(32)
            .flat_map(|numbers| {
                // 0x00 to 0x37 are numbers below 1.
                let codes = numbers.iter().map(|x| (x.abs() * 56.0) as u8 | (x.is_sign_negative() as u8) << 7);
                (numbers[0] * 1.3).to_le_bytes().into_iter().chain(codes).collect::<Vec<u8>>()
            })
            .collect(),
        DType::F16 => numbers.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        _ => numbers.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
    }
}

/// A packed matrix, and its weights as the reference decoder has them: (rows, cols).
struct Case {
    packed: PackedMatrix,
    weights: Vec<f32>,
}

impl Case {
    fn new(dtype: DType, rows: usize, cols: usize, rng: &mut Rng) -> Self {
        let bytes = tensor_bytes(dtype, rows, cols, rng);
        let view = TensorView { name: "w", dtype, shape: vec![rows, cols], bytes: bytes.as_slice().into() };
        let mut weights = vec![0.0; rows * cols];
        dequantize(dtype, &bytes, &mut weights);
        Self { packed: PackedMatrix::pack(&view, rows, &|row| row).unwrap(), weights }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.weights[row * self.packed.cols()..][..self.packed.cols()]
    }
}

fn tiers() -> Vec<Kernels> {
    [Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Avx512Bf16]
        .into_iter()
        .filter_map(|isa| Kernels::new(Some(isa)).ok())
        .collect()
}

/// What a column holds that nobody may write.
const CANARY: f32 = 12345.0;

/// Runs `product` on an output (rows, w.rows() + 3) and checks that it kept to its columns.
fn product(w: &PackedMatrix, rows: usize, product: impl FnOnce(MatMut<'_>)) -> Vec<f32> {
    let stride = w.rows() + 3;
    let mut out = vec![CANARY; rows * stride];
    product(MatMut { ptr: out.as_mut_ptr(), rows, stride, _life: PhantomData });
    out.chunks_exact(stride)
        .flat_map(|row| {
            assert!(row[w.rows()..].iter().all(|&x| x == CANARY), "columns past the matrix were written");
            row[..w.rows()].to_vec()
        })
        .collect()
}

/// Activations as a matrix of this type takes them.
fn quantized(kernels: Kernels, x: &[f32], cols: usize, dtype: DType) -> QuantizedRows {
    let mut quantized = if dtype == DType::I8_ROW { QuantizedRows::wide() } else { QuantizedRows::default() };
    quantized.resize(x.len() / cols, cols);
    for (row, x) in x.chunks_exact(cols).enumerate() {
        // SAFETY: one thread.
        unsafe { kernels.quantize(x, &quantized, row, 0) };
    }
    quantized
}

fn int8(kernels: Kernels, w: &PackedMatrix, x: &[f32], splits: &[Range<usize>]) -> Vec<f32> {
    int8_of(kernels, w, &quantized(kernels, x, w.cols(), w.dtype()), splits)
}

fn int8_of(kernels: Kernels, w: &PackedMatrix, x: &QuantizedRows, splits: &[Range<usize>]) -> Vec<f32> {
    let rows = x.rows();
    product(w, rows, |out| {
        for panels in splits {
            // SAFETY: one thread; the output has the shape.
            unsafe { kernels.matmul_int8(w, panels.clone(), x, 0..rows, out) };
        }
    })
}

fn float32(kernels: Kernels, w: &PackedMatrix, x: &[f32], splits: &[Range<usize>]) -> Vec<f32> {
    let rows = x.len() / w.cols();
    product(w, rows, |out| {
        for panels in splits {
            // SAFETY: one thread; the output has the shape.
            unsafe { kernels.matmul_f32(w, panels.clone(), x, 0..rows, out) };
        }
    })
}

/// Tiers that do not have it compute in float32, as the engine does.
fn bf16_product(kernels: Kernels, w: &PackedMatrix, x: &[f32], splits: &[Range<usize>]) -> Vec<f32> {
    if !kernels.multiplies_bf16() {
        return float32(kernels, w, x, splits);
    }
    let (rows, cols) = (x.len() / w.cols(), w.cols());
    let mut rounded = Bf16Rows::default();
    rounded.resize(rows, cols);
    for (row, x) in x.chunks_exact(cols).enumerate() {
        // In two parts, as lanes write them.
        let cut = cols / 64 * 32;
        // SAFETY: one thread.
        unsafe {
            kernels.round(&x[cut..], &rounded, row, cut);
            kernels.round(&x[..cut], &rounded, row, 0);
        }
    }
    product(w, rows, |out| {
        for panels in splits {
            // SAFETY: one thread; the output has the shape.
            unsafe { kernels.matmul_bf16(w, panels.clone(), &rounded, 0..rows, out) };
        }
    })
}

fn whole(w: &PackedMatrix) -> [Range<usize>; 1] {
    let all = 0..w.num_panels();
    [all]
}

/// The activations that int8 kernels see: scale = max / 127, codes rounded to nearest even.
fn through_int8(x: &[f32], cols: usize, dtype: DType) -> Vec<f64> {
    let group = if dtype == DType::I8_ROW { 64 } else { 32 };
    x.chunks(cols)
        .flat_map(|row| row.chunks(group))
        .flat_map(|group| {
            let max = group.iter().fold(0f32, |max, v| max.max(v.abs()));
            let (scale, inverse) = if max == 0.0 { (0.0, 0.0) } else { (max / 127.0, 127.0 / max) };
            group.iter().map(move |v| f64::from(scale) * f64::from((v * inverse).round_ties_even()))
        })
        .collect()
}

/// The activations that bf16 kernels see.
fn through_bf16(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| bf16::from_f32(x).to_f64()).collect()
}

/// y[r][c] and Σ |w x| of it, in float64.
fn reference(case: &Case, x: &[f64]) -> Vec<(f64, f64)> {
    x.chunks_exact(case.packed.cols())
        .flat_map(|x| {
            (0..case.packed.rows()).map(move |row| {
                case.row(row).iter().zip(x).fold((0.0, 0.0), |(sum, size), (&w, &x)| {
                    let p = f64::from(w) * x;
                    (sum + p, size + p.abs())
                })
            })
        })
        .collect()
}

/// The largest minimum that `tensor_bytes` makes. Minima cancel products, and count twice in an error bound.
fn max_min(dtype: DType) -> f64 {
    match dtype {
        DType::Q4_1 | DType::Q5_1 => 0.1,
        DType::Q2_K => 0.1 * 15.0,
        DType::Q4_K | DType::Q5_K => 0.1 * 63.0,
        DType::U4G32 | DType::U4G64 | DType::U4G128 | DType::U8G32 => 0.1 * 255.0,
        _ => 0.0,
    }
}

fn assert_close(got: &[f32], expected: &[(f64, f64)], relative: f64, slack: f64, what: &str) {
    assert_eq!(got.len(), expected.len());
    for (i, (&got, &(sum, size))) in got.iter().zip(expected).enumerate() {
        let bound = relative * (size + slack);
        assert!((f64::from(got) - sum).abs() <= bound, "{what}: element {i} is {got}, not {sum} within {bound}");
    }
}

/// Columns that are whole blocks, with tails for every chunk and tile.
fn some_cols(dtype: DType) -> impl Strategy<Value = usize> {
    match dtype.block_len() {
        256 => prop::sample::select(vec![256, 512, 768, 2048]).boxed(),
        64 => prop::sample::select(vec![64, 128, 320, 576, 2048]).boxed(),
        128 => prop::sample::select(vec![128, 256, 384, 1152, 2048]).boxed(),
        32 => prop::sample::select(vec![32, 96, 256, 288, 576, 640, 1024, 2048]).boxed(),
        _ => prop::sample::select(vec![1, 7, 64, 100, 333, 576]).boxed(),
    }
}

fn some_dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(&QUANTIZED[..])
}

fn some_case(dtypes: &'static [DType]) -> impl Strategy<Value = (DType, usize, usize, usize, u64)> {
    prop::sample::select(dtypes)
        .prop_flat_map(|dtype| (Just(dtype), 1usize..70, some_cols(dtype), 1usize..40, any::<u64>()))
}

#[test]
fn rows_decode_as_the_reference_decodes_the_file() {
    let mut rng = Rng(1);
    for dtype in QUANTIZED.into_iter().chain(DENSE) {
        let case = Case::new(dtype, 37, 512, &mut rng);
        let mut row = vec![0.0; 512];
        for r in 0..37 {
            case.packed.decode_row(r, &mut row);
            for (col, (got, expected)) in row.iter().zip(case.row(r)).enumerate() {
                assert_eq!(got.to_bits(), expected.to_bits(), "{dtype} row {r} column {col}: {got} is not {expected}");
            }
        }
    }
}

#[test]
fn rows_are_taken_from_where_they_are_asked() {
    let mut rng = Rng(2);
    let bytes = tensor_bytes(DType::Q4_1, 50, 64, &mut rng);
    let view = TensorView { name: "w", dtype: DType::Q4_1, shape: vec![50, 64], bytes: bytes.as_slice().into() };
    let all = PackedMatrix::pack(&view, 50, &|row| row).unwrap();
    let some = PackedMatrix::pack(&view, 20, &|row| 49 - 2 * row).unwrap();
    let by_parts = PackedMatrix::zeroed(DType::Q4_1, 20, 64).unwrap();
    for panels in [1..2, 0..1] {
        // SAFETY: one thread.
        unsafe { by_parts.pack_panels(&view, &|row| 49 - 2 * row, panels) };
    }
    let decode = |w: &PackedMatrix, row| {
        let mut out = vec![0.0; 64];
        w.decode_row(row, &mut out);
        out
    };
    for row in 0..20 {
        assert_eq!(decode(&some, row), decode(&all, 49 - 2 * row));
        assert_eq!(decode(&some, row), decode(&by_parts, row));
    }
}

#[test]
fn packed_sizes_stay_close_to_the_files() {
    for (dtype, most_bits) in [
        (DType::Q4_0, 4.5),
        (DType::Q4_1, 5.0),
        (DType::Q8_0, 8.5),
        (DType::Q4_K, 4.7),
        (DType::Q6_K, 8.6),
        (DType::BF16, 16.0),
    ] {
        let packed = PackedMatrix::zeroed(dtype, 1024, 1024).unwrap();
        let bits = packed.num_bytes() as f64 * 8.0 / (1024.0 * 1024.0);
        assert!(bits <= most_bits, "{dtype}: {bits} bits per weight");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn int8_products_equal_the_reference((dtype, rows, cols, m, seed) in some_case(&QUANTIZED)) {
        let mut rng = Rng(seed);
        let case = Case::new(dtype, rows, cols, &mut rng);
        let x = rng.floats(m * cols);
        let expected = reference(&case, &through_int8(&x, cols, dtype));
        for kernels in tiers() {
            let got = int8(kernels, &case.packed, &x, &whole(&case.packed));
            let relative = (cols / 16) as f64 * 2f64.powi(-22);
            let slack = 2.0 * max_min(dtype) * cols as f64;
            assert_close(&got, &expected, relative, slack, &format!("{dtype} {} {rows}x{cols} m={m}", kernels.isa()));
        }
    }

    #[test]
    fn outliers_add_their_columns_as_the_file_has_them(
        (dtype, rows, cols, m, seed) in some_case(&QUANTIZED),
        cut in 0usize..6,
        first in 0usize..40,
    ) {
        prop_assume!(dtype != DType::I8_ROW);
        let mut rng = Rng(seed);
        let case = Case::new(dtype, rows, cols, &mut rng);
        let before = rng.floats(m * cols);
        let mut rest = before.clone();
        let outliers: OutlierRows = rest.chunks_exact_mut(cols).map(Outliers::take).collect();
        let cut = cut.min(case.packed.num_panels());
        for kernels in tiers() {
            let adds_twice = kernels.isa() == Isa::Scalar;
            let add = |sum: f32, w: f32, x: f32| if adds_twice { sum + w * x } else { w.mul_add(x, sum) };
            let mut expected = int8(kernels, &case.packed, &rest, &whole(&case.packed));
            let quantized = quantized(kernels, &rest, cols, dtype);
            let first = first.min(m);
            let got = product(&case.packed, m, |out| {
                for panels in [0..cut, cut..case.packed.num_panels()] {
                    // SAFETY: one thread; the output has the shape.
                    unsafe {
                        for rows in [0..first, first..m] {
                            let panels = panels.clone();
                            kernels.matmul_int8_with_outliers(&case.packed, panels, &quantized, &outliers, rows, out);
                        }
                    }
                }
            });
            let sums = expected.chunks_exact_mut(rows).zip(before.chunks_exact(cols).zip(rest.chunks_exact(cols)));
            for (sums, (before, rest)) in sums {
                for (row, sum) in sums.iter_mut().enumerate() {
                    for (col, &x) in before.iter().enumerate().filter(|&(col, x)| rest[col] != *x) {
                        *sum = add(*sum, case.row(row)[col], x);
                    }
                }
            }
            prop_assert_eq!(got, expected, "{} {} {}x{} m={}", dtype, kernels.isa(), rows, cols, m);
        }
    }

    #[test]
    fn float_products_equal_the_reference((dtype, rows, cols, m, seed) in some_case(&QUANTIZED)) {
        float_products(dtype, rows, cols, m, seed);
    }

    #[test]
    fn dense_products_equal_the_reference((dtype, rows, cols, m, seed) in some_case(&DENSE)) {
        float_products(dtype, rows, cols, m, seed);
    }

    #[test]
    fn bf16_products_equal_the_reference((dtype, rows, cols, m, seed) in some_case(&BY_BF16)) {
        let mut rng = Rng(seed);
        let mut case = Case::new(dtype, rows, cols, &mut rng);
        if dtype == DType::F16 {
            case.weights.iter_mut().for_each(|w| *w = bf16::from_f32(*w).to_f32());
        }
        let x = rng.floats(m * cols);
        let expected = reference(&case, &through_bf16(&x));
        for kernels in tiers().into_iter().filter(Kernels::multiplies_bf16) {
            let got = bf16_product(kernels, &case.packed, &x, &whole(&case.packed));
            let slack = 1e-3 + 2.0 * max_min(dtype) * cols as f64;
            let relative = cols as f64 * 2f64.powi(-23);
            assert_close(&got, &expected, relative, slack, &format!("{dtype} {rows}x{cols} m={m}"));
        }
    }

    #[test]
    fn bf16_results_do_not_depend_on_company(case in some_case(&BY_BF16), m2 in 1usize..70, cut in 0usize..6) {
        company(case, m2, cut, &[bf16_product]);
    }

    #[test]
    fn results_do_not_depend_on_company(case in some_case(&QUANTIZED), m2 in 1usize..70, cut in 0usize..6) {
        company(case, m2, cut, &[int8, float32]);
    }

    #[test]
    fn a_pair_gives_what_each_gives(case in some_case(&QUANTIZED), other in some_dtype(), cut in 0usize..6) {
        let (dtype, rows, cols, m, seed) = case;
        // Now and then of another layout, where that has whole blocks of these columns.
        let fits = cols % other.block_len() == 0 && (dtype == DType::I8_ROW || other != DType::I8_ROW);
        let other = if seed % 4 == 0 && fits { other } else { dtype };
        let mut rng = Rng(seed);
        let [a, b] = [dtype, other].map(|dtype| Case::new(dtype, rows, cols, &mut rng).packed);
        let x = rng.floats(m * cols);
        let cut = cut.min(a.num_panels());
        for kernels in tiers() {
            let x8 = quantized(kernels, &x, cols, dtype);
            let mut of_a = Vec::new();
            let of_b = product(&b, m, |to_b| {
                of_a = product(&a, m, |to_a| {
                    for panels in [cut..a.num_panels(), 0..cut] {
                        // SAFETY: one thread; the outputs have the shape.
                        unsafe { kernels.matmul_int8_pair([&a, &b], panels, &x8, 0..m, [to_a, to_b]) };
                    }
                });
            });
            prop_assert_eq!(of_a, int8(kernels, &a, &x, &whole(&a)));
            prop_assert_eq!(of_b, int8_of(kernels, &b, &x8, &whole(&b)));
        }
    }

    #[test]
    fn dense_results_do_not_depend_on_company(case in some_case(&DENSE), m2 in 1usize..70, cut in 0usize..6) {
        company(case, m2, cut, &[float32]);
    }
}

type Product = fn(Kernels, &PackedMatrix, &[f32], &[Range<usize>]) -> Vec<f32>;

/// `m` rows at once against the first `m2` of them in two parts, and the last alone.
fn company(
    (dtype, rows, cols, m, seed): (DType, usize, usize, usize, u64),
    m2: usize,
    cut: usize,
    products: &[Product],
) {
    let mut rng = Rng(seed);
    let case = Case::new(dtype, rows, cols, &mut rng);
    let w = &case.packed;
    let x = rng.floats(m.max(m2) * cols);
    let cut = cut.min(w.num_panels());
    for kernels in tiers().into_iter().filter(|k| k.isa() != Isa::Scalar) {
        for run in products {
            let together = run(kernels, w, &x, &whole(w));
            let split = run(kernels, w, &x[..m2 * cols], &[cut..w.num_panels(), 0..cut]);
            assert_eq!(&together[..split.len()], &split[..], "{dtype} {} m={m} m2={m2}", kernels.isa());
            let last = x.len() / cols - 1;
            let alone = run(kernels, w, &x[last * cols..], &whole(w));
            assert_eq!(&together[last * w.rows()..], &alone[..], "{dtype} {} alone", kernels.isa());
        }
    }
}

fn float_products(dtype: DType, rows: usize, cols: usize, m: usize, seed: u64) {
    let mut rng = Rng(seed);
    let case = Case::new(dtype, rows, cols, &mut rng);
    let x = rng.floats(m * cols);
    let exact: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
    let expected = reference(&case, &exact);
    for kernels in tiers() {
        let got = float32(kernels, &case.packed, &x, &whole(&case.packed));
        let relative = cols as f64 * 2f64.powi(-23);
        assert_close(&got, &expected, relative, 1e-30, &format!("{dtype} {} {rows}x{cols} m={m}", kernels.isa()));
    }
}

/// Few rows read large weights in several streams, and a panel alone in one.
#[test]
fn results_do_not_depend_on_the_streams_of_the_weights() {
    let mut rng = Rng(18);
    let case = Case::new(DType::Q4_1, 18 * 16 - 5, 8192, &mut rng);
    let w = &case.packed;
    let x = rng.floats(4 * w.cols());
    let each: Vec<_> = (0..w.num_panels()).map(|panel| panel..panel + 1).collect();
    for kernels in tiers().into_iter().filter(|k| k.isa() != Isa::Scalar) {
        for rows in 1..=4 {
            let x = &x[..rows * w.cols()];
            assert!(int8(kernels, w, x, &whole(w)) == int8(kernels, w, x, &each), "{} {rows}", kernels.isa());
        }
    }
}

#[test]
fn sums_are_exact_at_the_extremes() {
    // Every code and every activation at its largest magnitude: a saturating instruction, or a sum that does not
    // fit, would show. Scales are powers of two, so that all sums are exact.
    for dtype in QUANTIZED {
        for fill in [0x00, 0x7f, 0x80, 0xff] {
            let mut bytes = vec![fill; dtype.row_bytes(512).unwrap() * 16];
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                for &at in f16_fields(dtype) {
                    block[at..at + 2].copy_from_slice(&f16::ONE.to_le_bytes());
                }
                if dtype == DType::I8_ROW {
                    block[..4].copy_from_slice(&1f32.to_le_bytes());
                }
            }
            let view = TensorView { name: "w", dtype, shape: vec![16, 512], bytes: bytes.as_slice().into() };
            let w = PackedMatrix::pack(&view, 16, &|row| row).unwrap();
            let mut weights = vec![0.0; 16 * 512];
            dequantize(dtype, &bytes, &mut weights);
            for (sign, rows) in [(1.0, 1), (-1.0, 4), (1.0, 7)] {
                let expected = sign * 127.0 * weights[..512].iter().sum::<f32>();
                for kernels in tiers() {
                    let runs: &[Product] = if kernels.multiplies_bf16() { &[int8, bf16_product] } else { &[int8] };
                    for run in runs {
                        for y in run(kernels, &w, &vec![127.0 * sign; rows * 512], &whole(&w)) {
                            assert_eq!(y, expected, "{dtype} of {fill:#x}, {rows} rows, {}", kernels.isa());
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn nan_stays_in_its_row() {
    let mut rng = Rng(3);
    let case = Case::new(DType::Q4_1, 40, 96, &mut rng);
    let mut x = rng.floats(9 * 96);
    x[3 * 96 + 50] = f32::NAN;
    for kernels in tiers() {
        for run in [int8, bf16_product, float32] {
            for (row, y) in run(kernels, &case.packed, &x, &whole(&case.packed)).chunks_exact(40).enumerate() {
                assert!(y.iter().all(|v| v.is_nan() == (row == 3)), "{} row {row}", kernels.isa());
            }
        }
    }
}
