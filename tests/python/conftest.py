"""Fixtures, and hypothesis settings: small in a normal run, `HYPOTHESIS_PROFILE=deep` for a long one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ferrule import Engine

# A shell's background jobs ignore Ctrl-C, and so would Python: tests of it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The package looks for the emulated GPU around itself: Cargo may build elsewhere.
EMULATOR = Path(os.environ.get("CARGO_TARGET_DIR", "target")).resolve() / "cuda-emu" / "libcuda_emu.so"
if EMULATOR.exists():
    os.environ.setdefault("FERRULE_CUDA_EMU", str(EMULATOR))

settings.register_profile("default", max_examples=100, stateful_step_count=40, deadline=None)
settings.register_profile("deep", max_examples=5000, stateful_step_count=100, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def engine() -> Iterator[Engine]:
    """The null model: the real engine, with tokens that follow from a hash of the prefix."""
    with Engine("null") as engine:
        yield engine
