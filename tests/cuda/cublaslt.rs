//! cuBLASLt's binding, over the emulator's: it has that library's functions, with its checks.

use std::ffi::c_void;
use std::path::Path;
use std::sync::Arc;

use ferrule_engine::EngineConfig;
use ferrule_engine::config::Device;
use ferrule_engine::cuda;
use ferrule_engine::cuda::cublaslt::{CublasLt, LEAST_ROWS, Product};
use ferrule_engine::cuda::driver::{Context, DeviceBuffer, Library, Stream};
use ferrule_engine::cuda::launch::{Gemm, GemmOutput, GemmWeight, Kernels};
use half::bf16;

use crate::emulated_device;
use crate::float16::model_in_eighths;
use crate::models::{exact, expected, generate_together, generated_as_exact, golden, lengthened, load, on_device};

pub fn context() -> Arc<Context> {
    cuda::open(Device::CudaEmu).expect("the emulator opens").context(0).expect("it has a device")
}

/// What the emulated library has multiplied so far.
fn products() -> u64 {
    let path = cuda::emulator().expect("it is built");
    let symbol = Library::open(&path).expect("it opens").symbol("emu_cublaslt_products").expect("the emulator counts");
    // SAFETY: this is the function's type.
    unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> u64>(symbol)() }
}

/// Numbers between -1 and 1, as a hash makes them.
pub fn numbers(len: usize, seed: usize) -> Vec<bf16> {
    let hash = |i: usize| ((i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    (0..len).map(|i| bf16::from_f32(hash(i))).collect()
}

/// Sums in another order: bf16 are neighbours at most, float32 equal but for the last bits.
#[test]
fn products_are_those_of_the_kernels() {
    let Some(_device) = emulated_device() else { return };
    let context = context();
    let driver = cuda::open(Device::CudaEmu).unwrap();
    let library = cuda::open_cublaslt(Device::CudaEmu, &driver, &context).unwrap();
    let kernels = Kernels::load(&context, |_| Ok(vec![0])).unwrap();
    let stream = Stream::new(&context).unwrap();
    // The same sizes twice, and sizes that change places.
    for (m, n, k) in [(LEAST_ROWS, 72, 64), (131, 60, 40), (200, 129, 136), (131, 60, 40), (131, 40, 64)] {
        let x = DeviceBuffer::from_slice(&context, &numbers(m * k, n)).unwrap();
        let weight = DeviceBuffer::from_slice(&context, &numbers(n * k, 7 * k)).unwrap();
        let [own, theirs] = [(); 2].map(|()| DeviceBuffer::<f32>::new(&context, m * n).unwrap());
        let [own_bf16, theirs_bf16] = [(); 2].map(|()| DeviceBuffer::<bf16>::new(&context, m * n).unwrap());
        let partials = DeviceBuffer::<f32>::new(&context, 0).unwrap();
        let outputs = [
            (GemmOutput::F32(own.all()), GemmOutput::F32(theirs.all())),
            (GemmOutput::Bf16(own_bf16.all()), GemmOutput::Bf16(theirs_bf16.all())),
        ];
        for (own, theirs) in outputs {
            let (x, partials) = (x.all(), partials.all());
            let weight = weight.all();
            let gemm = Gemm { x, weight: GemmWeight::Bf16(weight), out: own, n, k, splits: 1, panels: 1, partials };
            kernels.launch(&gemm, &stream).unwrap();
            assert!(library.multiply(&Product { x, weight, out: theirs, n, k }, &stream).unwrap());
        }
        stream.synchronize().unwrap();
        let room = 1e-5 * k as f32;
        for (own, theirs) in own.to_vec().unwrap().into_iter().zip(theirs.to_vec().unwrap()) {
            assert!((own - theirs).abs() <= room, "({m}, {n}, {k}): {theirs}, not {own}");
        }
        for (own, theirs) in own_bf16.to_vec().unwrap().into_iter().zip(theirs_bf16.to_vec().unwrap()) {
            let (own, theirs) = (own.to_f32(), theirs.to_f32());
            assert!((own - theirs).abs() <= own.abs() / 128.0 + room, "({m}, {n}, {k}): {theirs}, not {own}");
        }
    }
}

/// Prompts of a whole model, in chunks on both sides of `LEAST_ROWS`, beside sequences that decode.
#[test]
fn models_agree_with_the_exact_mode() {
    let Some(_device) = emulated_device() else { return };
    for name in ["llama3", "gemma3", "mixtral"] {
        let folder = lengthened(&golden(name), 512);
        let ids: Vec<_> = expected(folder.path()).input_ids.into_iter().cycle().take(300).collect();
        let prompts = [ids[..20].to_vec(), ids[..150].to_vec(), ids];
        let config = EngineConfig { max_num_batched_tokens: 256, ..on_device() };
        let before = products();
        let engine = load(folder.path(), EngineConfig { cublaslt: true, ..config.clone() });
        let outputs = generate_together(&engine, &prompts, 4);
        generated_as_exact(folder.path(), &prompts, &outputs, name);
        assert!(products() > before, "{name}");
        let before = products();
        generate_together(&load(folder.path(), config), &prompts, 4);
        assert_eq!(products(), before, "{name}");
    }
}

/// The library would take them for bf16.
#[test]
fn products_with_weights_of_float16_are_the_kernels_own() {
    let Some(_device) = emulated_device() else { return };
    let folder = model_in_eighths("llama-sharded");
    let ids: Vec<_> = expected(&golden("llama-sharded")).input_ids.into_iter().cycle().take(LEAST_ROWS + 20).collect();
    let before = products();
    let engine = load(folder.path(), EngineConfig { cublaslt: true, max_num_batched_tokens: 256, ..on_device() });
    generate_together(&engine, &[ids], 2);
    assert_eq!(products(), before);
}

/// The library is missing, is none, or has nothing to run on: one sentence says so.
#[test]
fn what_is_missing_is_one_sentence() {
    let Some(_device) = emulated_device() else { return };
    let context = context();
    let error = |path: &str| CublasLt::open(&context, Path::new(path)).unwrap_err().to_string();
    let missing = error("/nonexistent/libcublasLt.so.13");
    assert!(missing.starts_with("cublaslt is set, and /nonexistent/libcublasLt.so.13 cannot be opened"), "{missing}");
    let old = error("libc.so.6");
    assert!(old.contains("libc.so.6 is too old: it lacks cublasLtGetVersion"), "{old}");
    let none = CublasLt::find(&context, 11).unwrap_err().to_string();
    assert!(none.contains("cuBLASLt for CUDA 11 or earlier was not found: pip install nvidia-cublas"), "{none}");
    let on_cpu = EngineConfig { cublaslt: true, ..exact() }.validate().unwrap_err().to_string();
    assert!(on_cpu.contains("cublaslt is set and device is cpu"), "{on_cpu}");
    assert!([missing, old, none, on_cpu].iter().all(|sentence| !sentence.contains('\n')));
}
