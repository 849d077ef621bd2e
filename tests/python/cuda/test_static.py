"""Kernels compiled for real GPUs, without one: NVRTC comes as the package nvidia-cuda-nvrtc."""

import ctypes
import importlib.util
import re
from pathlib import Path

import pytest
from emulator import ROOT

KERNELS = sorted((ROOT / "cuda").glob("*.cu"))
ARCHITECTURES = ["sm_80", "sm_90", "sm_120"]


@pytest.fixture(scope="session")
def nvrtc():
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else []
    found = [path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")]
    if not found:
        pytest.skip("NVRTC is not installed (pip install nvidia-cuda-nvrtc)")
    return ctypes.CDLL(str(found[0]))


def compile_log(nvrtc, path, architecture):
    header = (ROOT / "cuda" / "simt.cuh").read_text().replace("#pragma once", "")
    source = header + path.read_text().replace('#include "simt.cuh"', "")
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), path.name.encode(), 0, None, None)
    options = [f"--gpu-architecture={architecture}".encode(), b"--std=c++17", b"--ptxas-options=-v"]
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    assert code == 0, log.value.decode()
    return log.value.decode()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_kernels_keep_their_variables_in_registers(nvrtc, path, architecture):
    log = compile_log(nvrtc, path, architecture)
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", log)
    assert frames
    assert set(frames) == {("0", "0")}, log[log.find("ptxas") :]
