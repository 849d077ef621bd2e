"""The emulated GPU, plain and with every access checked, and a real one where there is one."""

import numpy as np
import pytest
from emulator import FOLDER, Emulator
from gpu import Gpu, NoGpu, emulated

LIBRARIES = {"plain": "libcuda_emu.so", "checked": "libcuda_emu_check.so"}


def open_library(kind):
    if kind == "gpu":
        try:
            return Gpu()
        except NoGpu as reason:
            pytest.skip(str(reason))
    name = LIBRARIES[kind]
    if not (FOLDER / name).exists():
        pytest.skip(f"{FOLDER / name} is not built (make emu; it needs g++)")
    return Emulator(name)


@pytest.fixture(scope="session", params=[*LIBRARIES, pytest.param("gpu", marks=pytest.mark.gpu)])
def library(request):
    return open_library(request.param)


@pytest.fixture(scope="session")
def checked():
    return open_library("checked")


@pytest.fixture(scope="session")
def driver():
    """The emulated driver, by way of what drives a real one."""
    open_library("plain")
    return emulated()


@pytest.fixture(params=range(4))
def gpu(library, request):
    """Memory is empty; threads run forwards, backwards or at random, and cp.async copies late or early."""
    library.reset(order=request.param % 3, cp_async=[0, 1, 2, 0][request.param], seed=request.param)
    library.seed = request.param
    return library


@pytest.fixture
def rng(gpu):
    return np.random.default_rng(gpu.seed)
