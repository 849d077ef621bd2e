"""A GPU through the CUDA driver API, with the functions of `Emulator`: the same tests run on both.

`make gpu-test` runs them where there is a GPU. The emulated driver takes its place in the test of this file's own code.
"""

import ctypes
import sys

import cubins
import numpy as np
from emulator import FOLDER, KernelFailure, c_value

DRIVER = "libcuda.so.1"
COMPUTE_MAJOR, COMPUTE_MINOR, MULTIPROCESSORS = 75, 76, 16
MAX_DYNAMIC_SHARED = 8
DEFAULT_SHARED = 48 << 10
# More than any cache has.
COLD_BYTES = 512 << 20


class NoGpu(Exception):
    """Why there is none, in a sentence."""


class Gpu:
    """The first GPU of a driver. Memory lives until `reset`."""

    checked = False

    def __init__(self, path=DRIVER, emulated=False):
        try:
            self.driver = ctypes.CDLL(str(path))
        except OSError as error:
            raise NoGpu(f"no NVIDIA driver: {error}") from None
        if code := self.driver.cuInit(0):
            raise NoGpu(f"the NVIDIA driver finds no GPU (cuInit gives {code})")
        self.device = ctypes.c_int()
        self.call("cuDeviceGet", ctypes.byref(self.device), 0)
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self.device)
        self.call("cuCtxSetCurrent", context)
        name = ctypes.create_string_buffer(100)
        self.call("cuDeviceGetName", name, len(name), self.device)
        self.name = name.value.decode()
        major, minor = self.attribute(COMPUTE_MAJOR), self.attribute(COMPUTE_MINOR)
        self.architecture = f"sm_{major}{minor}"
        self.functions, self.memory = {}, []
        if not emulated and cubins.nvrtc() is None:
            raise NoGpu("NVRTC is missing, which compiles the kernels (pip install nvidia-cuda-nvrtc)")
        images = (
            [b"\0"]
            if emulated
            else [cubins.compile_kernels(path, self.architecture)[0] for path in [*cubins.KERNELS, cubins.PROBE]]
        )
        self.modules = [self.load(image) for image in images]

    def images(self):
        for path in [*cubins.KERNELS, cubins.PROBE]:
            yield cubins.compile_kernels(path, self.architecture)[0]

    def call(self, function, *args):
        if code := getattr(self.driver, function)(*args):
            raise KernelFailure(f"{function} ({code})")

    def attribute(self, which):
        value = ctypes.c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), which, self.device)
        return value.value

    def load(self, image):
        module = ctypes.c_void_p()
        self.call("cuModuleLoadData", ctypes.byref(module), image)
        return module

    def function(self, name):
        if name not in self.functions:
            found = ctypes.c_void_p()
            get = self.driver.cuModuleGetFunction
            if not any(get(ctypes.byref(found), module, name.encode()) == 0 for module in self.modules):
                raise KernelFailure(f"{name} is in no module")
            self.functions[name] = found
        return self.functions[name]

    def reset(self, **_order):
        self.call("cuCtxSynchronize")
        while self.memory:
            self.call("cuMemFree_v2", ctypes.c_uint64(self.memory.pop()))

    def allocate(self, num_bytes):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(num_bytes, 1)))
        self.memory.append(address.value)
        return address.value

    def upload(self, array, address=None):
        array = np.ascontiguousarray(array)
        address = address or self.allocate(array.nbytes)
        source = ctypes.c_void_p(array.ctypes.data)
        self.call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes))
        return address

    def download(self, address, shape, dtype):
        array = np.empty(shape, dtype)
        target = ctypes.c_void_p(array.ctypes.data)
        self.call("cuMemcpyDtoH_v2", target, ctypes.c_uint64(address), ctypes.c_size_t(array.nbytes))
        return array

    def start(self, name, grid, block, *args, shared=0):
        """Puts a kernel in the default stream."""
        values = [c_value(arg) for arg in args]
        params = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        function = self.function(name)
        if shared > DEFAULT_SHARED:
            self.call("cuFuncSetAttribute", function, MAX_DYNAMIC_SHARED, shared)
        sizes = [*grid, *[1] * (3 - len(grid)), block, 1, 1, shared]
        self.call("cuLaunchKernel", function, *map(ctypes.c_uint, sizes), None, params, None)

    def launch(self, *args, **options):
        self.start(*args, **options)
        self.call("cuCtxSynchronize")

    def seconds(self, run, times):
        """The median of `times` runs by the GPU's clock, each with its caches cold."""
        events = [ctypes.c_void_p() for _ in range(2)]
        for event in events:
            self.call("cuEventCreate", ctypes.byref(event), 0)
        other = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(other), ctypes.c_size_t(COLD_BYTES))
        found = []
        for _ in range(times + 1):
            self.call("cuMemsetD8Async", other, ctypes.c_ubyte(0), ctypes.c_size_t(COLD_BYTES), None)
            self.call("cuEventRecord", events[0], None)
            run()
            self.call("cuEventRecord", events[1], None)
            self.call("cuEventSynchronize", events[1])
            milliseconds = ctypes.c_float()
            self.call("cuEventElapsedTime", ctypes.byref(milliseconds), *events)
            found.append(milliseconds.value / 1e3)
        self.call("cuMemFree_v2", other)
        return float(np.median(found[1:]))


def emulated():
    return Gpu(FOLDER / "libcuda_emu.so", emulated=True)


if __name__ == "__main__":
    try:
        print(Gpu().name)
    except NoGpu as reason:
        sys.exit(f"skipped: {reason}")
