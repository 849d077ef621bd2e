//! The run-time compiler, where NVIDIA's wheel or toolkit has brought it: it needs no GPU.

use ferrule_engine::cuda::nvrtc::Nvrtc;

/// The newest compiler there is.
fn nvrtc() -> Option<Nvrtc> {
    Nvrtc::find(13).inspect_err(|reason| println!("skipped: {reason}")).ok()
}

#[test]
fn a_kernel_with_its_header_becomes_a_cubin() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = "#include \"scale.cuh\"\nextern \"C\" __global__ void scale(float* x) { x[threadIdx.x] *= SCALE; }";
    let cubin = nvrtc.compile("scale", source, &[("scale.cuh", "#define SCALE 3.0f")], (9, 0)).unwrap();
    assert_eq!(cubin[..4], *b"\x7fELF");
    assert!(cubin.windows(5).any(|bytes| bytes == b"scale"));
}

#[test]
fn a_mistake_is_reported_with_the_compilers_words() {
    let Some(nvrtc) = nvrtc() else { return };
    let error =
        nvrtc.compile("broken", "__global__ void f() { undeclared = 1; }", &[], (8, 0)).unwrap_err().to_string();
    assert!(error.contains("the kernels of broken") && error.contains("undeclared"), "{error}");
}

#[test]
fn a_library_that_is_no_compiler_is_refused() {
    let error = Nvrtc::open(std::path::Path::new("libc.so.6")).unwrap_err().to_string();
    assert!(error.contains("libc.so.6: nvrtcVersion is missing"), "{error}");
}
