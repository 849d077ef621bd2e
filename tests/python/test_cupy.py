"""The CUDA kernels for CuPy arrays."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ferrule import _core, cuda

KERNELS = Path(__file__).parents[2] / "cuda"


def test_sources_are_whole_and_name_their_kernels():
    header = (KERNELS / "simt.cuh").read_text().replace("#pragma once", "")
    found = {path.read_text().replace('#include "simt.cuh"', header) for path in KERNELS.glob("*.cu")}
    sources = _core.cuda_sources()
    assert {source for source, _ in sources} == found
    assert "ferrule_rms_norm" in cuda.names()
    assert len(cuda.names()) == len(set(cuda.names()))
    with pytest.raises(KeyError):
        cuda.kernel("ferrule_nothing")


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_without_cupy_a_sentence_says_what_to_do():
    with pytest.raises(cuda.CudaUnavailable, match="pip install cupy"):
        cuda.kernel("ferrule_rms_norm")


@pytest.mark.gpu
def test_a_kernel_takes_cupy_arrays():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed (pip install cupy-cuda13x)")
    try:
        norm = cuda.kernel("ferrule_rms_norm")
    except cuda.CudaUnavailable as reason:
        pytest.skip(str(reason))
    x, weight = np.random.default_rng(1).standard_normal((4, 512)).astype(np.float32), np.ones(512, np.float32)
    out = cupy.zeros((4, 512), cupy.uint16)
    norm((4,), 256, (cupy.asarray(x), None, cupy.asarray(weight), out, np.int32(512), np.float32(1e-5)))
    found = (cupy.asnumpy(out).astype(np.uint32) << 16).view(np.float32)
    expected = x / np.sqrt((x * x).mean(1, keepdims=True) + 1e-5)
    assert np.abs(found - expected).max() < 0.02
