"""Numbers for kernels, and how close they must come."""

import numpy as np
from emulator import bf16

i32 = np.int32
EPS = 1e-5


def normal(rng, *shape):
    """Random values that are exact in bf16, as bits."""
    return bf16(rng.standard_normal(shape))


def assert_close(found, expected, tolerance=0.01):
    """Differences within the rounding of bf16, relative to the largest value."""
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()
