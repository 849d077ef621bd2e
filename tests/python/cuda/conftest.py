"""The emulated GPU: plain and with every access checked."""

import numpy as np
import pytest
from emulator import FOLDER, Emulator

LIBRARIES = {"plain": "libcuda_emu.so", "checked": "libcuda_emu_check.so"}


@pytest.fixture(scope="session", params=LIBRARIES)
def library(request):
    name = LIBRARIES[request.param]
    if not (FOLDER / name).exists():
        pytest.skip(f"{FOLDER / name} is not built (make emu; it needs g++)")
    return Emulator(name)


@pytest.fixture(scope="session")
def checked():
    if not (FOLDER / LIBRARIES["checked"]).exists():
        pytest.skip(f"{FOLDER / LIBRARIES['checked']} is not built (make emu; it needs g++)")
    return Emulator(LIBRARIES["checked"])


@pytest.fixture(params=range(4))
def gpu(library, request):
    """Memory is empty; threads run forwards, backwards or at random, and cp.async copies late or early."""
    library.reset(order=request.param % 3, cp_async=[0, 1, 2, 0][request.param], seed=request.param)
    library.seed = request.param
    return library


@pytest.fixture
def rng(gpu):
    return np.random.default_rng(gpu.seed)
