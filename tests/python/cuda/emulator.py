"""The emulated GPU from Python, without a driver in between: arrays go in, a kernel runs, arrays come out."""

import ctypes
import os
import re
from pathlib import Path

import numpy as np

FORWARD, BACKWARD, RANDOM = range(3)  # of threads, warps and blocks
LATE, EARLY, EITHER = range(3)  # when cp.async copies
ROOT = Path(__file__).parents[3]
FOLDER = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "cuda-emu"


# Dynamic shared memory of the kernels that have some.
DYNAMIC_SHARED = {
    name: int(shared)
    for name, shared in re.findall(
        r'"(ferrule_\w+)" \((\d+)\)', (ROOT / "rust" / "engine" / "cuda" / "launch" / "table.rs").read_text()
    )
}


class KernelFailure(Exception):
    """What the emulator says about a launch that failed."""


def bf16(x):
    """Float32 rounded to the nearest bf16, as its bits (uint16)."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def floats(bits):
    """Bits of bf16 (uint16) as float32."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


class Emulator:
    """A library that `make emu` builds. Memory lives until `reset`."""

    def __init__(self, name):
        self.library = ctypes.CDLL(str(FOLDER / name))
        self.library.emu_malloc.restype = ctypes.c_void_p
        self.library.emu_malloc.argtypes = [ctypes.c_size_t]
        self.library.emu_copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        self.library.emu_report.restype = ctypes.c_char_p
        self.library.emu_config.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_uint64]
        self.library.emu_launch.argtypes = [
            ctypes.c_char_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_void_p,
        ]
        self.checked = bool(self.library.emu_checked())

    def reset(self, order=RANDOM, cp_async=LATE, seed=0):
        self.library.emu_reset()
        self.library.emu_config(order, cp_async, 1, seed)

    def allocate(self, num_bytes):
        """The address of memory that nobody has written."""
        address = self.library.emu_malloc(num_bytes)
        assert address, f"{num_bytes} bytes do not fit"
        return address

    def upload(self, array, address=None):
        array = np.ascontiguousarray(array)
        address = address or self.allocate(array.nbytes)
        self.library.emu_copy(address, array.ctypes.data, array.nbytes)
        return address

    def download(self, address, shape, dtype):
        array = np.empty(shape, dtype)
        self.library.emu_copy(array.ctypes.data, address, array.nbytes)
        return array

    def launch(self, name, grid, block, *args, shared=0):
        """Arguments: addresses as int or None, int32 and int64 as NumPy scalars, float32 as float."""
        values = [c_value(arg) for arg in args]
        sizes = [self.library.emu_param_bytes(name.encode(), i) for i in range(len(args) + 1)]
        assert sizes == [ctypes.sizeof(value) for value in values] + [-1], (name, sizes)
        params = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        grid = (ctypes.c_uint * 3)(*grid, *[1] * (3 - len(grid)))
        block = (ctypes.c_uint * 3)(block, 1, 1)
        if code := self.library.emu_launch(name.encode(), grid, block, shared, params):
            raise KernelFailure(f"{name} ({code}): {self.library.emu_report().decode()}")


def c_value(arg):
    match arg:
        case None:
            return ctypes.c_void_p(0)
        case np.int32():
            return ctypes.c_int32(int(arg))
        case np.int64():
            return ctypes.c_int64(int(arg))
        case float():
            return ctypes.c_float(arg)
        case int():
            return ctypes.c_void_p(arg)
    raise TypeError(f"{arg!r} is no kernel argument")
