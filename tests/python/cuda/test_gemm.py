"""Products with weight matrices of every form."""

import numpy as np
import pytest
from emulator import bf16, floats
from reference import normal
from weights import (
    QUANTIZED,
    WEIGHTS,
    Bf16Weights,
    F16Weights,
    Mxfp4Weights,
    check_product,
    product,
    skinny_product,
    some_k,
    wide_panels,
)


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("out", [np.uint16, np.float32])
def test_gemm(gpu, rng, kind, out):
    m, n, k = (
        int(rng.integers(1, 140)),
        int(rng.choice([rng.integers(1, 140), rng.integers(129, 200)])),
        some_k(rng, kind, 700),
    )
    weights, x = kind(rng, n, k), normal(rng, m, k)
    check_product(weights, x, product(gpu, weights, x, n, out, splits=int(rng.choice([1, 2, 4, 8]))))


@pytest.mark.parametrize("rows", [8, 16, 32])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("out", [np.uint16, np.float32])
@pytest.mark.parametrize("wide", [False, True])
def test_skinny_gemm(gpu, rng, rows, kind, out, wide):
    m, n, k = int(rng.integers(1, rows + 1)), int(rng.integers(1, 300 if wide else 60)), some_k(rng, kind, 1500)
    weights, x = kind(rng, n, k), normal(rng, m, k)
    panels = int(rng.choice(wide_panels(weights, rows))) if wide else 1
    check_product(weights, x, skinny_product(gpu, weights, x, n, out, rows, panels))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_products_bits_do_not_depend_on_the_kernel(gpu, rng, kind):
    """Alone or in company, in tiles or not, in codes or as bf16: each element is one sum in one order."""
    n, k = int(rng.integers(1, 60)), some_k(rng, kind, 1500)
    weights, x = kind(rng, n, k), normal(rng, 32, k)
    whole = skinny_product(gpu, weights, x, n, np.float32, 32)
    for rows in (8, 16, 32):
        some = slice(5, 5 + rows - 5)
        for panels in (1, *wide_panels(weights, rows)):
            assert (skinny_product(gpu, weights, x[some], n, np.float32, rows, panels) == whole[some]).all()
    for splits in (1, 2):
        assert (product(gpu, weights, x, n, np.float32, splits) == whole).all()
    if kind is not F16Weights:
        plain = Bf16Weights(rng, n, k)
        plain.bits = weights.bits
        assert (product(gpu, plain, x, n, np.float32) == whole).all()


@pytest.mark.parametrize("kind", [F16Weights, *QUANTIZED])
def test_f16_stay_as_they_are_and_codes_become_the_nearest_bf16(gpu, rng, kind):
    weights = kind(rng, 20, 256)
    for at in range(0, 256, 32):
        one_hot = bf16(np.eye(32, 256, at))
        found = skinny_product(gpu, weights, one_hot, 20, np.float32, 32)
        assert (weights.values()[:, at : at + 32] == found.T).all()


def test_activations_beside_f16_become_the_nearest_f16_that_is_finite(gpu, rng):
    """Exact from 2^-17 up to the largest one."""
    x = bf16(rng.standard_normal((32, 64)) * 2.0 ** rng.integers(-30, 30, (32, 64)))
    x[:, :4] = bf16(np.array([65280, 65536, -3e38, 2.0**-17 * 1.9921875], np.float32))
    weights = F16Weights(rng, 64, 64)
    weights.numbers[:] = np.eye(64)
    largest = np.finfo(np.float16).max
    expected = np.clip(floats(x), -largest, largest).astype(np.float16).astype(np.float32)
    in_range = (np.abs(floats(x)) >= 2.0**-17) & (np.abs(floats(x)) <= largest)
    assert (expected == floats(x))[in_range].all()
    assert (skinny_product(gpu, weights, x, 64, np.float32, 32) == expected).all()
    assert (product(gpu, weights, x, 64, np.float32) == expected).all()


def test_the_smallest_and_largest_powers_of_mxfp4(gpu, rng):
    """2^-127 and 2^-126, whose products a bf16 has in part or not at all, up to the largest that is finite."""
    weights = Mxfp4Weights(rng, 16, 256)
    weights.exponents[:] = np.array([0, 1, 2, 3, 100, 127, 200, 251])
    exact = np.ldexp(weights.e2m1[weights.codes], np.repeat(weights.exponents, 32, 1) - 127).astype(np.float32)
    for at in range(0, 256, 32):
        one_hot = bf16(np.eye(32, 256, at))
        found = skinny_product(gpu, weights, one_hot, 16, np.float32, 32)
        assert (floats(bf16(exact[:, at : at + 32])) == found.T).all()
