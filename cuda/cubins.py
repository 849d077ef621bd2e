"""Compiles every kernel for every architecture, without a GPU: python cuda/cubins.py FOLDER. `make cuda` embeds them.

NVRTC comes as the package nvidia-cuda-nvrtc. FOLDER gets NAME.sm_XX.cubin for each file, and `made`, which says by whom
(NVRTC's version) and of what (a hash of each source with its header), so that nothing else is embedded for them.
"""

import ctypes
import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent
ARCHITECTURES = ["80", "86", "89", "90", "100", "120"]


def fnv1a(data):
    """64 bits; build.rs has the same."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def open_nvrtc():
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else []
    found = [path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    if not found:
        sys.exit("NVRTC is missing: pip install nvidia-cuda-nvrtc")
    return ctypes.CDLL(str(found[0]))


def compile_one(nvrtc, header, path, architecture):
    source = path.read_text().replace('#include "simt.cuh"', "")
    source = header.replace("#pragma once", "") + source
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), path.name.encode(), 0, None, None)
    options = [f"--gpu-architecture=sm_{architecture}".encode(), b"--std=c++17"]
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    what = "ProgramLog" if code else "CUBIN"
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    result = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, result)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if code:
        sys.exit(f"{path.name} for sm_{architecture}: {result.value.decode()}")
    return result.raw


def main(folder):
    nvrtc, header = open_nvrtc(), (SOURCES / "simt.cuh").read_text()
    paths = sorted(SOURCES.glob("*.cu"))
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()

    def make(job):
        path, architecture = job
        cubin = compile_one(nvrtc, header, path, architecture)
        (folder / f"{path.stem}.sm_{architecture}.cubin").write_bytes(cubin)
        return len(cubin)

    with ThreadPoolExecutor() as pool:
        total = sum(pool.map(make, [(path, architecture) for path in paths for architecture in ARCHITECTURES]))
    major, minor = ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    lines = [f"nvrtc {major.value} {minor.value}"]
    lines += [f"{path.stem} {fnv1a((header + path.read_text()).encode()):016x}" for path in paths]
    (folder / "made").write_text("\n".join(lines) + "\n")
    print(f"{len(paths)} files of kernels for {len(ARCHITECTURES)} architectures: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
