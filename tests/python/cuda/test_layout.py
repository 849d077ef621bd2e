"""The warp's instructions on a GPU and in the emulator, against what the PTX manual says of their fragments."""

import numpy as np
import pytest
from emulator import bf16, floats
from reference import i32

LANES = np.arange(32)
G, T = LANES // 4, LANES % 4


def pairs(matrix, rows, columns):
    """Elements (row, column) and (row, column + 1) of 16 bits in one word."""
    return matrix[rows, columns].astype(np.uint32) | matrix[rows, columns + 1].astype(np.uint32) << 16


def f16(x):
    return x.astype(np.float16).view(np.uint16)


@pytest.mark.parametrize(("name", "bits"), [("bf16", bf16), ("f16", f16)])
def test_mma(gpu, rng, name, bits):
    # Small whole numbers: their sums are exact, whatever the order.
    a, b, c = (rng.integers(-9, 10, shape).astype(np.float32) for shape in ((16, 16), (8, 16), (16, 8)))
    first = [pairs(bits(a), G + row, 2 * T + k) for k in (0, 8) for row in (0, 8)]
    second = [pairs(bits(b), G, 2 * T + k) for k in (0, 8)]
    places = [(G + row, 2 * T + column) for row in (0, 8) for column in (0, 1)]
    d = gpu.upload(np.stack([c[place] for place in places], 1))
    args = gpu.upload(np.stack(first, 1)), gpu.upload(np.stack(second, 1)), d
    gpu.launch(f"ferrule_probe_mma_{name}", (1,), 32, *args)
    found, product = gpu.download(d, (32, 4), np.float32), a @ b.T + c
    assert (found == np.stack([product[place] for place in places], 1)).all()


def test_ldmatrix(gpu, rng):
    matrices = rng.integers(0, 1 << 16, (4, 8, 8)).astype(np.uint16)
    outs = [gpu.allocate(512) for _ in range(2)]
    gpu.launch("ferrule_probe_ldmatrix", (1,), 32, gpu.upload(matrices), *outs)
    plain, transposed = (gpu.download(out, (32, 4), np.uint32) for out in outs)
    assert (plain == np.stack([pairs(matrix, G, 2 * T) for matrix in matrices], 1)).all()
    assert (transposed == np.stack([pairs(matrix.T, G, 2 * T) for matrix in matrices], 1)).all()


def test_lanes(gpu, rng):
    x = rng.integers(0, 1 << 32, 32, np.uint32)
    out = gpu.allocate(1024)
    gpu.launch("ferrule_probe_lanes", (1,), 32, gpu.upload(x), out)
    found = gpu.download(out, (8, 32), np.uint32)
    up, down = LANES - 3, LANES + 3
    shuffles = [(LANES * 5 + 3) % 32, LANES ^ 5, np.where(up < 0, LANES, up), np.where(down > 31, LANES, down)]
    for row, source in zip(found, shuffles, strict=False):
        assert (row == x[source]).all()
    assert (found[4] == sum(int(bit) << lane for lane, bit in enumerate(x & 1))).all()
    mine, other = x.view(np.uint8).reshape(-1, 4), (~x).view(np.uint8).reshape(-1, 4)
    both = np.concatenate([mine, other], 1)
    assert (found[5].view(np.uint8).reshape(-1, 4) == both[:, [0, 5, 2, 7]]).all()
    assert (found[6] == x & 0x0FF00FF0 | 0x43004300).all()
    assert (found[7] == bf16((x & 0xBFFFFFFF).view(np.float32)).astype(np.uint32) + 0x3F800000).all()


def test_pairs(gpu, rng):
    x = bf16(rng.standard_normal((32, 3, 2)) * 2.0 ** rng.integers(-6, 7, (32, 3, 2)))
    # Far beyond what an f16 holds, on both sides.
    x[:4, 0] = bf16(np.array([[1e30, -1e30], [65504, 65280], [1e-6, -1e-7], [1e-9, 0]]))
    products, halves, narrowed = (gpu.allocate(128) for _ in range(3))
    gpu.launch("ferrule_probe_pairs", (1,), 32, gpu.upload(x), products, halves, narrowed)
    a, b, c = floats(x).astype(np.float64).transpose(1, 0, 2)
    exact, found = a * b + c, floats(gpu.download(products, (32, 2), np.uint16))
    # Half of the last of 8 bits: one rounding, and to the nearest.
    last_bit = 2.0 ** (np.floor(np.log2(np.abs(found))) - 7)
    assert (np.abs(found - exact) <= last_bit / 2).all()
    expected = x[:, 0, 0].copy().view(np.float16).astype(np.float32)
    same = gpu.download(halves, 32, np.float32)
    assert ((same == expected) | (np.isnan(same) & np.isnan(expected))).all()
    largest = np.finfo(np.float16).max
    nearest = np.clip(floats(x[:, 0]), -largest, largest).astype(np.float16)
    assert (gpu.download(narrowed, (32, 2), np.float16) == nearest).all()


def test_approximations(gpu, rng):
    x = np.concatenate([rng.uniform(-20, 20, 30), [0, 1]]).astype(np.float32)
    out = gpu.allocate(384)
    gpu.launch("ferrule_probe_approximate", (1,), 32, gpu.upload(x), out)
    # The emulator errs by twice what the manual allows.
    powers, inverses, roots = gpu.download(out, (3, 32), np.float32).astype(np.float64)
    assert (np.abs(powers / np.exp2(x.astype(np.float64)) - 1) < 2.0**-21).all()
    assert powers[30] == 1
    nonzero = x != 0
    assert (np.abs(inverses[nonzero] * x[nonzero] - 1) < 2.0**-21).all()
    assert (np.abs(roots[nonzero] * np.sqrt(np.abs(x[nonzero].astype(np.float64))) - 1) < 2.0**-21).all()


def test_the_driver_runs_what_the_emulator_runs(driver):
    """The way to a real GPU, with the emulated driver at its end."""
    driver.reset()
    rng = np.random.default_rng(1)
    x = rng.integers(0, 1 << 32, 32, np.uint32)
    out = driver.allocate(1024)
    driver.launch("ferrule_probe_lanes", (1,), 32, driver.upload(x), out)
    assert (driver.download(out, (8, 32), np.uint32)[1] == x[LANES ^ 5]).all()
    logits = driver.upload(np.array([[1, 3, 2], [5, 4, 3]], np.float32))
    tokens = driver.allocate(8)
    seconds = driver.seconds(lambda: driver.start("ferrule_argmax", (2,), 1024, logits, tokens, i32(3)), 3)
    assert (driver.download(tokens, 2, i32) == [1, 0]).all()
    assert seconds == 0  # The emulated driver has no clock.
