"""What machine code for real GPUs, and traffic that the emulator counts, must come to."""

import cubins
import evidence
import pytest
import traffic

NVRTC = pytest.mark.skipif(cubins.nvrtc() is None, reason="NVRTC is not installed (pip install nvidia-cuda-nvrtc)")
TOOLS = pytest.mark.skipif(
    cubins.nvrtc() is None or cubins.tool("nvdisasm") is None,
    reason="NVRTC or nvdisasm is not installed (pip install nvidia-cuda-nvrtc nvidia-cuda-nvdisasm)",
)


@NVRTC
@pytest.mark.parametrize("architecture", cubins.ARCHITECTURES)
@pytest.mark.parametrize("path", cubins.KERNELS, ids=lambda path: path.stem)
def test_kernels_keep_their_variables_in_registers(path, architecture):
    found = cubins.resources(path, architecture)
    assert found
    for name, used in found.items():
        assert (used.stack, used.spills) == (0, 0), name


# Warps that run on a multiprocessor at a time, at least, of kernels by what their names begin with; 16 of all others.
LEAST_WARPS = {
    "ferrule_decode_attention": 8,
    "ferrule_prefill_attention": 4,
    "ferrule_gemm": 8,
    "ferrule_grouped_gemm": 8,
    "ferrule_skinny_gemm": 8,
    "ferrule_grouped_skinny_gemm": 8,
}


@NVRTC
@pytest.mark.parametrize("architecture", cubins.ARCHITECTURES)
def test_enough_warps_run_on_a_multiprocessor(checked, architecture):
    for name, used in evidence.all_resources(architecture).items():
        least = (
            16 if name.endswith("_m8") else next((n for start, n in LEAST_WARPS.items() if name.startswith(start)), 16)
        )
        assert evidence.warps(checked, architecture, name, used) >= least, name


# Kernel: products of its hot loop, and its 16-byte loads from global memory (to registers or to shared memory).
HOT_LOOPS = {
    "ferrule_decode_attention_d64": (16, 8),
    "ferrule_decode_attention_d128": (32, 16),
    "ferrule_decode_attention_d256": (64, 48),
    "ferrule_skinny_gemm_m8": (8, 12),
    "ferrule_skinny_gemm_f16_m8": (8, 12),
    "ferrule_skinny_gemm_int4_m8": (8, 6),
    "ferrule_skinny_gemm_int8_m8": (8, 8),
    "ferrule_skinny_gemm_int4_m32": (32, 18),
    "ferrule_skinny_gemm_mxfp4_m8": (8, 6),
    "ferrule_skinny_gemm_wide_m8": (16, 20),
    "ferrule_skinny_gemm_f16_wide_m8": (16, 20),
    "ferrule_skinny_gemm_int4_wide_m8": (64, 20),
    "ferrule_skinny_gemm_int8_wide_m8": (32, 20),
    "ferrule_skinny_gemm_int4_min_wide_m8": (64, 20),
    "ferrule_skinny_gemm_int8_min_wide_m8": (32, 20),
    "ferrule_skinny_gemm_mxfp4_wide_m8": (64, 20),
    "ferrule_skinny_gemm_int4_wide_m16": (256, 40),
    "ferrule_skinny_gemm_int4_wide_m32": (256, 32),
    "ferrule_grouped_skinny_gemm_int4_m8": (8, 6),
    "ferrule_grouped_skinny_gemm_int4_wide_m8": (64, 20),
    "ferrule_gemm": (64, 8),
    "ferrule_gemm_f16": (64, 8),
    "ferrule_gemm_int4": (64, 7),
    "ferrule_gemm_int8": (64, 7),
    "ferrule_gemm_mxfp4": (64, 6),
}


@TOOLS
@pytest.mark.parametrize("architecture", cubins.ARCHITECTURES)
def test_hot_loops_have_the_products_and_loads_that_their_shapes_need(architecture):
    found = evidence.loops(architecture)
    for name, (products, wide_loads) in HOT_LOOPS.items():
        loop = found[name]
        direct, copies, _ = evidence.loads(loop)
        assert cubins.count(loop, "HMMA") == products, name
        assert direct + copies == wide_loads, name


def test_traffic_stays_close_to_the_least(checked):
    for name in traffic.CASES:
        found, least = traffic.measure_case(checked, name)
        assert found.unique <= 1.05 * least, (name, found)
        assert found.sector_efficiency >= 0.9, (name, found)
        assert found.bank_conflicts <= 1.0, (name, found)
        if name not in traffic.ASKED_AGAIN:
            assert found.requested <= 1.3 * least, (name, found)


@TOOLS
def test_the_evidence_is_what_was_written_down(checked):
    written = evidence.PATH.read_text()
    if f"NVRTC {cubins.nvrtc_version()} " not in written:
        pytest.skip(f"docs/cuda-evidence.md is of another NVRTC than {cubins.nvrtc_version()}")
    assert evidence.report() == written, "run `make evidence`"
