"""Ferrule's CUDA kernels for CuPy arrays, compiled when they are first asked for.

    norm = ferrule.cuda.kernel("ferrule_rms_norm")
    norm((rows,), 256, (x, None, weight, out, np.int32(hidden), np.float32(1e-5)))

Their parameters, shapes and grids stand in cuda/README.md. They need CuPy and an NVIDIA GPU of compute capability 8.0
or later.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from ferrule import _core

__all__ = ["CudaUnavailable", "Kernel", "kernel", "names"]

# What a kernel may have without asking for more.
_DEFAULT_SHARED_BYTES = 48 << 10


class CudaUnavailable(RuntimeError):
    """CuPy or a GPU is missing, and what to do about it."""


class Kernel:
    """A compiled kernel. Calls go to CuPy's current stream."""

    def __init__(self, function: Any, shared_bytes: int) -> None:
        self._function = function
        self._shared_bytes = shared_bytes
        if shared_bytes > _DEFAULT_SHARED_BYTES:
            function.max_dynamic_shared_size_bytes = shared_bytes

    def __call__(self, grid: Sequence[int], block: int, args: Sequence[Any]) -> None:
        """The blocks of the grid, the threads of a block, and the arguments in order.

        Arguments are CuPy arrays (C-contiguous), None for null, np.int32, np.int64 and np.float32.
        """
        values = tuple(np.intp(0) if arg is None else arg for arg in args)
        self._function(tuple(grid), (block,), values, shared_mem=self._shared_bytes)


def names() -> list[str]:
    """The kernels that there are."""
    return [name for _, kernels in _core.cuda_sources() for name, _ in kernels]


def kernel(name: str) -> Kernel:
    """The kernel of this name. Raises KeyError if there is none, and CudaUnavailable without CuPy or a GPU."""
    for index, (_, kernels) in enumerate(_core.cuda_sources()):
        shared_bytes = dict(kernels)
        if name in shared_bytes:
            return Kernel(_module(index).get_function(name), shared_bytes[name])
    raise KeyError(name)


@cache
def _module(index: int) -> Any:
    try:
        import cupy
    except ImportError:
        raise CudaUnavailable("ferrule.cuda needs CuPy: pip install cupy-cuda13x (or cupy-cuda12x)") from None
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise CudaUnavailable(f"ferrule.cuda needs an NVIDIA GPU: {error}") from None
    return cupy.RawModule(code=_core.cuda_sources()[index][0], options=("--std=c++17",))
