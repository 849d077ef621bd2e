"""Weight matrices in the forms that kernels read (see cuda/README.md), and products with them."""

import numpy as np
from emulator import bf16, floats
from reference import assert_close, i32, normal


def padded(x, rows, cols):
    return np.pad(x, [(0, -len(x) % rows), (0, -x.shape[1] % cols)])


def factors_by_panel(x):
    """(n, groups) to (panels, groups, 8, 2): rows g and g + 8 of a panel side by side."""
    x = padded(x, 16, 1)
    return x.reshape(-1, 2, 8, x.shape[1]).transpose(0, 3, 2, 1)


def int4_words(codes):
    codes = padded(codes, 16, 64).astype(np.uint32)
    # (panel, half, g, block, step, t, i)
    codes = codes.reshape(-1, 2, 8, codes.shape[1] // 64, 2, 4, 8)
    shifts = np.array([0, 16, 4, 20, 8, 24, 12, 28], np.uint32)
    return (codes << shifts).sum(-1, dtype=np.uint32).transpose(0, 3, 2, 5, 4, 1)


def int8_words(codes):
    codes = padded(codes, 16, 32).astype(np.int8).view(np.uint8)
    # (panel, half, g, block, t, word, byte): pairs of k are two bytes apart
    codes = codes.reshape(-1, 2, 8, codes.shape[1] // 32, 4, 2, 4)[..., [0, 2, 1, 3]]
    return codes.transpose(0, 3, 2, 4, 1, 5, 6)


class Weights:
    """Those that are bf16, or become it."""

    def values(self):
        return floats(self.bits)


class Bf16Weights(Weights):
    name, shared, bit_count = "", 98304, 16

    def __init__(self, rng, n, k):
        self.bits = normal(rng, n, k)

    def num_bytes(self):
        return self.bits.nbytes

    def args(self, gpu):
        return (gpu.upload(self.bits),)

    def sizes(self):
        return ()


class F16Weights:
    name, shared, bit_count = "_f16", 98304, 16

    def __init__(self, rng, n, k):
        # Down to the smallest, which have fewer bits.
        self.numbers = (rng.standard_normal((n, k)) * 2.0 ** -rng.integers(0, 22, (n, k))).astype(np.float16)

    def values(self):
        return self.numbers.astype(np.float32)

    def num_bytes(self):
        return self.numbers.nbytes

    def args(self, gpu):
        return (gpu.upload(self.numbers),)

    def sizes(self):
        return ()


class Int4Weights(Weights):
    name, shared, bit_count = "_int4", 63744, 4

    def __init__(self, rng, n, k, group=None):
        self.group = group or next(group for group in rng.permutation([32, 64, 128]) if k % group == 0)
        self.codes = rng.integers(0, 16, (n, k))
        self.scales = (rng.standard_normal((n, k // self.group)) / 4).astype(np.float16)
        self.zeros = rng.integers(0, 17, self.scales.shape) if rng.integers(2) else None
        zeros = 8 if self.zeros is None else np.repeat(self.zeros, self.group, 1)
        self.bits = bf16((self.codes - zeros) * np.repeat(self.scales, self.group, 1).astype(np.float32))

    def num_bytes(self):
        """Rows are whole panels, and columns whole blocks."""
        return self.codes.size // 2 + self.scales.size * (2 if self.zeros is None else 3)

    def args(self, gpu):
        zeros = self.zeros if self.zeros is None else gpu.upload(factors_by_panel(self.zeros).astype(np.uint8))
        return gpu.upload(int4_words(self.codes)), gpu.upload(factors_by_panel(self.scales)), zeros

    def sizes(self):
        return (i32(int(self.group).bit_length() - 1),)


class Int8Weights(Weights):
    name, shared, bit_count = "_int8", 75264, 8

    def __init__(self, rng, n, k):
        self.codes = rng.integers(-128, 128, (n, k))
        self.scales = (rng.standard_normal((n, k // 32)) / 64).astype(np.float16)
        scales = np.repeat(self.scales, 32, 1).astype(np.float32)
        high = floats(bf16(scales))
        low = floats(bf16(self.codes * (scales - high)))
        # The exact sum of two numbers fits a float64, and its bf16 is found by way of a float32 rounded to odd.
        exact = self.codes * high.astype(np.float64) + low
        odd = exact.astype(np.float32)
        inexact = odd != exact
        odd = np.where(inexact & (np.abs(odd) > np.abs(exact)), np.nextafter(odd, np.float32(0)), odd)
        self.bits = bf16((odd.view(np.uint32) | inexact).view(np.float32))

    def num_bytes(self):
        return self.codes.size + self.scales.size * 2

    def args(self, gpu):
        return gpu.upload(int8_words(self.codes)), gpu.upload(factors_by_panel(self.scales))

    def sizes(self):
        return (i32(5),)


class LineWeights(Weights):
    """Codes with a scale and a minimum for each group of columns."""

    def __init__(self, rng, n, k, group=None):
        self.group = group or int(rng.choice([16, 32]))
        self.codes = rng.integers(*self.range, (n, k))
        self.scales = (rng.standard_normal((n, k // self.group)) / 4).astype(np.float16)
        # So that weights come close to 0.
        self.minima = (-self.scales * rng.integers(*self.range, self.scales.shape)).astype(np.float16)
        self.minima += (rng.standard_normal(self.scales.shape) / 64).astype(np.float16)
        scales, minima = (np.repeat(x, self.group, 1).astype(np.float64) for x in (self.scales, self.minima))
        # Products are exact, and sums are rounded once to float32.
        raised = (minima - self.raise_by * scales).astype(np.float32)
        self.bits = bf16(((self.codes + self.raise_by) * scales + raised).astype(np.float32))

    def num_bytes(self):
        return self.codes.size * self.bit_count // 8 + self.scales.size * 4

    def factors(self):
        return np.concatenate([factors_by_panel(self.scales), factors_by_panel(self.minima)], -1)

    def sizes(self):
        return (i32(self.group.bit_length() - 1),)


class Int4LineWeights(LineWeights):
    name, shared, range, bit_count, raise_by = "_int4_min", 67584, (0, 16), 4, 128

    def args(self, gpu):
        return gpu.upload(int4_words(self.codes)), gpu.upload(self.factors())


class Int8LineWeights(LineWeights):
    name, shared, range, bit_count, raise_by = "_int8_min", 79872, (-128, 128), 8, 0

    def args(self, gpu):
        return gpu.upload(int8_words(self.codes)), gpu.upload(self.factors())


class Mxfp4Weights(Weights):
    """Numbers of E2M1, with a power of two for each 32."""

    name, shared, bit_count = "_mxfp4", 62208, 4
    sizes_of_e2m1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    e2m1 = np.concatenate([sizes_of_e2m1, -sizes_of_e2m1])

    def __init__(self, rng, n, k):
        self.codes = rng.integers(0, 16, (n, k))
        self.exponents = rng.integers(114, 126, (n, k // 32))
        powers = np.ldexp(1.0, np.repeat(self.exponents, 32, 1) - 127)
        self.bits = bf16((self.e2m1[self.codes] * powers).astype(np.float32))

    def num_bytes(self):
        return self.codes.size // 2 + self.exponents.size

    def args(self, gpu):
        return gpu.upload(int4_words(self.codes)), gpu.upload(factors_by_panel(self.exponents).astype(np.uint8))

    def sizes(self):
        return ()


def wide_panels(weights, rows):
    """How many panels a block of the wide kernels for few rows may have: `GemmWeight::wide_panels`."""
    most = 32 // weights.bit_count * (2 if rows == 16 else 1)
    group = most if rows == 8 else 4 if weights.bit_count == 4 else 2
    return range(group, most + 1, group)


def skinny_kernel(weights, out_type, rows, panels):
    kind = "_f32" if out_type == np.float32 else ""
    return f"ferrule_skinny_gemm{weights.name}{kind}{'_wide' if panels > 1 else ''}_m{rows}"


def skinny_product(gpu, weights, x, n, out_type, rows, panels=1):
    """By the kernel for up to `rows` rows, with `panels` in a block."""
    m, k = x.shape
    out = gpu.allocate(m * n * 4)
    args = gpu.upload(x), *weights.args(gpu), out, i32(m), i32(n), i32(k), *weights.sizes()
    gpu.launch(skinny_kernel(weights, out_type, rows, panels), (-(-n // (16 * panels)),), 256, *args)
    return gpu.download(out, (m, n), out_type)


def product(gpu, weights, x, n, out_type, splits=1):
    """In tiles, with `splits` blocks for each."""
    m, k = x.shape
    out = gpu.allocate(m * n * 4)
    kind = "_f32" if out_type == np.float32 else ""
    partials = gpu.allocate(8 * m * n * 4) if splits > 1 else None
    args = gpu.upload(x), *weights.args(gpu), out, partials, i32(m), i32(n), i32(k), *weights.sizes()
    grid = (-(-m // 128), -(-n // 128), splits)
    gpu.launch(f"ferrule_gemm{weights.name}{kind}", grid, 256, *args, shared=weights.shared)
    if splits > 1:
        gpu.launch(f"ferrule_sum_parts{kind}", (-(-m * n // 256),), 256, partials, out, np.int64(m * n))
    return gpu.download(out, (m, n), out_type)


def grouped_product(gpu, weights, rows, starts, num_rows, n, k, skinny=None, panels=1):
    """What experts make of their rows: in tiles of 128 of them, or `skinny` at once."""
    products = gpu.allocate(num_rows * n * 2)
    num_experts, most = len(starts) - 1, int(np.diff(starts).max())
    args = rows, *weights.args(gpu), gpu.upload(starts), products, i32(n), i32(k), *weights.sizes()
    if skinny:
        grid = (-(-n // (16 * panels)), num_experts, -(-most // skinny))
        name = skinny_kernel(weights, None, skinny, panels).replace("skinny", "grouped_skinny")
        gpu.launch(name, grid, 256, *args)
    else:
        grid = (-(-most // 128), -(-n // 128), num_experts)
        gpu.launch(f"ferrule_grouped_gemm{weights.name}", grid, 256, *args, shared=weights.shared)
    return products


def check_product(weights, x, found):
    expected = floats(x) @ weights.values().T
    if found.dtype == np.float32:
        assert_close(found, expected, 1e-5)
    else:
        assert_close(floats(found), expected, 0.005)


QUANTIZED = [Int4Weights, Int8Weights, Int4LineWeights, Int8LineWeights, Mxfp4Weights]
PLAIN = [Bf16Weights, F16Weights]
WEIGHTS = [*PLAIN, *QUANTIZED]


def some_k(rng, weights, most):
    """k in multiples of 8, or for quantized weights of 32."""
    unit = 8 if weights in PLAIN else 32
    return unit * int(rng.integers(1, most // unit))
