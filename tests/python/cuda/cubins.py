"""Kernels compiled for real GPUs, without one, and what their machine code says.

NVRTC, nvdisasm and cuobjdump come as the packages nvidia-cuda-nvrtc, nvidia-cuda-nvdisasm and nvidia-cuda-cuobjdump.
"""

import ctypes
import importlib.util
import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from emulator import ROOT

KERNELS = sorted((ROOT / "cuda").glob("*.cu"))
PROBE = ROOT / "cuda" / "emu" / "probe.cu"
ARCHITECTURES = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"]

# Of a multiprocessor: threads, registers, bytes of shared memory, blocks (CUDA Programming Guide).
LIMITS = {
    "sm_80": (2048, 65536, 164 << 10, 32),
    "sm_86": (1536, 65536, 100 << 10, 16),
    "sm_89": (1536, 65536, 100 << 10, 24),
    "sm_90": (2048, 65536, 228 << 10, 32),
    "sm_100": (2048, 65536, 228 << 10, 32),
    "sm_120": (1536, 65536, 100 << 10, 24),
}
# Of it, the system keeps for each block.
RESERVED_SHARED = 1 << 10


def packages():
    """The folders of NVIDIA's packages."""
    spec = importlib.util.find_spec("nvidia")
    return [Path(folder) for folder in spec.submodule_search_locations] if spec else []


def tool(name):
    return next((path for folder in packages() for path in folder.glob(f"*/bin/{name}")), None)


def nvrtc():
    found = next((path for folder in packages() for path in folder.glob("*/lib/libnvrtc.so.*")), None)
    return found and ctypes.CDLL(str(found))


def nvrtc_version():
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@cache
def compile_kernels(path, architecture):
    """The cubin of a file, and what ptxas says of it."""
    library = nvrtc()
    header = (ROOT / "cuda" / "simt.cuh").read_text().replace("#pragma once", "")
    source = header + path.read_text().replace('#include "simt.cuh"', "")
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), path.name.encode(), 0, None, None)
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"--ptxas-options=-v"]
    code = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))

    def text(what):
        getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(library, f"nvrtcGet{what}")(program, buffer)
        return buffer.raw

    log = text("ProgramLog").rstrip(b"\0").decode()
    assert code == 0, log
    cubin = text("CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    return cubin, log


@dataclass(frozen=True)
class Resources:
    registers: int
    stack: int
    spills: int
    shared: int


def resources(path, architecture):
    """By kernel."""
    _, log = compile_kernels(path, architecture)
    found = {}
    for part in log.split("Function properties for ")[1:]:
        name = part.split()[0]
        stack, spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", part).groups()
        registers = re.search(r"Used (\d+) registers", part)[1]
        shared = re.search(r"(\d+) bytes smem", part)
        found[name] = Resources(int(registers), int(stack), int(spills), int(shared[1]) if shared else 0)
    return found


def warps(architecture, used, threads, dynamic_shared):
    """How many run on a multiprocessor at a time."""
    max_threads, registers, shared, blocks = LIMITS[architecture]
    of_block = threads // 32
    per_warp = -(-used.registers * 32 // 256) * 256
    in_shared = shared // (used.shared + dynamic_shared + RESERVED_SHARED)
    return of_block * min(blocks, max_threads // threads, registers // (per_warp * of_block), in_shared)


def machine_code(cubin):
    """Of each kernel the instructions, and the places that labels stand for."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool("nvdisasm"), "-c", file.name], capture_output=True, text=True, check=True).stdout
    kernels, name = {}, None
    for line in text.splitlines():
        line = line.strip()
        if start := re.match(r"\.text\.(\w+):", line):
            name = start[1]
            kernels[name] = [], {}
        elif label := re.match(r"(\.L_\w+):", line):
            kernels.get(name, ([], {}))[1][label[1]] = len(kernels[name][0]) if name in kernels else 0
        elif (instruction := re.match(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line)) and name:
            kernels[name][0].append(re.sub(r"^@!?U?P\w+\s+", "", instruction[1]))
    return kernels


def hot_loop(instructions, labels):
    """The shortest of the loops with the most products; without products, the longest loop."""
    loops = []
    for end, instruction in enumerate(instructions):
        target = re.search(r"BRA.*`\((\.L_\w+)\)", instruction)
        if target and labels.get(target[1], end + 1) <= end:
            loops.append(instructions[labels[target[1]] : end + 1])
    # What lies behind the kernel's end jumps back too, and is no loop.
    loops = [loop for loop in loops if not count(loop, "EXIT")] or loops
    products = max((count(loop, "HMMA") for loop in loops), default=0)
    with_products = [loop for loop in loops if count(loop, "HMMA") == products]
    return min(with_products, key=len) if products else max(loops, key=len, default=[])


def count(instructions, pattern):
    return sum(bool(re.match(pattern, instruction)) for instruction in instructions)
