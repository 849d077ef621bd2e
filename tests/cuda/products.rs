//! Products of few rows, with and without several panels in a block: the bits are the same.

use ferrule_engine::cuda::driver::{DeviceBuffer, Stream};
use ferrule_engine::cuda::launch::{Call, Gemm, GemmOutput, GemmWeight, GroupedGemm, Kernels};
use half::{bf16, f16};

use crate::cublaslt::{context, numbers};
use crate::emulated_device;

const K: usize = 384;

/// Words of any bits.
fn codes(len: usize, seed: usize) -> Vec<u32> {
    (0..len).map(|i| ((i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32).collect()
}

fn factors(len: usize, seed: usize) -> Vec<f16> {
    numbers(len, seed).into_iter().map(|x| f16::from_f32(x.to_f32())).collect()
}

#[test]
fn wide_blocks_make_the_same_bits() {
    let Some(_device) = emulated_device() else { return };
    let context = context();
    let kernels = Kernels::load(&context, |_| Ok(vec![0])).unwrap();
    let stream = Stream::new(&context).unwrap();
    // Two experts of 13 panels: a wide block has panels that are nobody's.
    let (n, experts) = (13 * 16, 2);
    let panels = experts * n / 16;
    let plain = DeviceBuffer::from_slice(&context, &numbers(experts * n * K, 1)).unwrap();
    let halves = DeviceBuffer::from_slice(&context, &factors(experts * n * K, 4)).unwrap();
    let [four, eight] = [4, 8].map(|bits| codes(panels * K * bits / 2, bits));
    let [four, eight] = [four, eight].map(|codes| DeviceBuffer::from_slice(&context, &codes).unwrap());
    let scales = DeviceBuffer::from_slice(&context, &factors(panels * 16 * K / 32, 2)).unwrap();
    let lines = DeviceBuffer::from_slice(&context, &factors(panels * 32 * K / 16, 3)).unwrap();
    let bytes = |from: u8| (0..panels * 16 * K / 32).map(|i| from + (i % 9) as u8).collect::<Vec<_>>();
    let zeros = DeviceBuffer::from_slice(&context, &bytes(0)).unwrap();
    let exponents = DeviceBuffer::from_slice(&context, &bytes(120)).unwrap();
    let weights = |share: usize| {
        let (four, eight) = (four.slice(0..four.len() / share), eight.slice(0..eight.len() / share));
        let scales = scales.slice(0..scales.len() / share);
        let lines = lines.slice(0..lines.len() / share);
        [
            GemmWeight::Bf16(plain.slice(0..plain.len() / share)),
            GemmWeight::F16(halves.slice(0..halves.len() / share)),
            GemmWeight::Int4 { codes: four, scales, zeros: Some(zeros.slice(0..zeros.len() / share)), group: 32 },
            GemmWeight::Int8 { codes: eight, scales, group: 32 },
            GemmWeight::Min { bits: 4, codes: four, factors: lines, group: 16 },
            GemmWeight::Min { bits: 8, codes: eight, factors: lines, group: 16 },
            GemmWeight::Mxfp4 { codes: four, exponents: exponents.slice(0..exponents.len() / share) },
        ]
    };
    let partials = DeviceBuffer::<f32>::new(&context, 0).unwrap();
    for m in [1, 8, 9, 16, 17, 32] {
        let x = DeviceBuffer::from_slice(&context, &numbers(m * K, m)).unwrap();
        let (x, partials) = (x.all(), partials.all());
        for weight in weights(experts) {
            let product = |panels| {
                let floats = DeviceBuffer::<f32>::new(&context, m * n).unwrap();
                let halves = DeviceBuffer::<bf16>::new(&context, m * n).unwrap();
                for out in [GemmOutput::F32(floats.all()), GemmOutput::Bf16(halves.all())] {
                    kernels.launch(&Gemm { x, weight, out, n, k: K, splits: 1, panels, partials }, &stream).unwrap();
                }
                stream.synchronize().unwrap();
                (bits(&floats.to_vec().unwrap()), halves.to_vec().unwrap())
            };
            let narrow = product(1);
            for panels in weight.wide_panels(m) {
                assert_eq!(product(panels), narrow, "{m} rows, {panels} panels");
            }
        }
        let starts = DeviceBuffer::from_slice(&context, &[0, m as i32 / 3, m as i32]).unwrap();
        for weight in weights(1) {
            // With as many multiprocessors as this, no block is wide.
            let [narrow, wide] = [1000, 1].map(|num_multiprocessors| {
                let out = DeviceBuffer::<bf16>::new(&context, m * n).unwrap();
                let (starts, out_rows) = (starts.all(), out.all());
                let call = GroupedGemm { x, weight, starts, out: out_rows, n, k: K, most_rows: m, num_multiprocessors };
                kernels.launch(&call, &stream).unwrap();
                stream.synchronize().unwrap();
                (call.shape().grid[0], out.to_vec().unwrap())
            });
            assert!(wide.0 < narrow.0);
            assert_eq!(narrow.1, wide.1, "{m} rows of experts");
        }
    }
}

/// Blocks of many panels, but not where these would leave multiprocessors without work.
#[test]
fn panels_are_shared_among_multiprocessors() {
    let Some(_device) = emulated_device() else { return };
    let codes = DeviceBuffer::<u32>::new(&context(), 0).unwrap();
    let (codes, exponents) = (codes.all(), DeviceBuffer::<u8>::new(&context(), 0).unwrap());
    let weight = GemmWeight::Mxfp4 { codes, exponents: exponents.all() };
    let panels = |n, m| Gemm::num_panels(weight, m, n, 132);
    // 1792 panels: 16 of them for each of 112 multiprocessors, 8 for half of 224, 4 for a fourth of 448.
    assert_eq!([1, 8, 9, 16, 17, 32, 33].map(|m| panels(28672, m)), [8, 8, 16, 16, 8, 8, 1]);
    // 1024: 128 blocks of 8, or 64 of 16.
    assert_eq!([8, 16, 32].map(|m| panels(16384, m)), [8, 8, 8]);
    // 384: 96 blocks of 4, or 48 of 8, which is the only choice with up to 8 rows. 256: 64 of 4.
    assert_eq!([8, 16, 32].map(|m| panels(6144, m)), [1, 4, 4]);
    assert_eq!([8, 16, 32].map(|m| panels(4096, m)), [1, 1, 1]);
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|x| x.to_bits()).collect()
}
