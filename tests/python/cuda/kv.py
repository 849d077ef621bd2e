"""Types of the KV cache: blocks as kernels read them, and the numbers that these stand for."""

import numpy as np
from emulator import bf16, floats
from reference import i32

# Numbers of one byte stand in this order within every four: an involution.
ORDER = [0, 2, 1, 3]


def in_order(codes):
    """Of blocks (num_blocks, 2, kv_heads, 16, head_dim): K's eights of a 64 stand in the order 0 4 1 5 2 6 3 7."""
    codes = codes.reshape(*codes.shape[:-1], -1, 4)[..., ORDER].reshape(codes.shape).copy()
    k = codes[:, 0]
    codes[:, 0] = k.reshape(*k.shape[:-1], -1, 2, 4, 8).swapaxes(-3, -2).reshape(k.shape)
    return codes


def out_of_order(codes):
    codes = codes.reshape(*codes.shape[:-1], -1, 4)[..., ORDER].reshape(codes.shape).copy()
    k = codes[:, 0]
    codes[:, 0] = k.reshape(*k.shape[:-1], -1, 4, 2, 8).swapaxes(-3, -2).reshape(k.shape)
    return codes


class Bf16Kv:
    """A block is (2, kv_heads, 16, head_dim) numbers. `wild` is what nobody may read."""

    name = ""

    def __init__(self, num_blocks, kv_heads, head_dim):
        self.shape = num_blocks, kv_heads, head_dim
        self.codes = np.full((num_blocks, 2, kv_heads, 16, head_dim), 0x7FC0, np.uint16)

    def put(self, slot, x):
        """Stores x (2, kv_heads, head_dim), and returns what it has become."""
        self.codes[slot // 16, :, :, slot % 16] = bf16(x)
        return floats(bf16(x))

    def numbers(self):
        """(num_blocks, 2, kv_heads, 16, head_dim)"""
        return floats(self.codes)

    def bytes(self):
        return self.codes.reshape(len(self.codes), -1).view(np.uint8)

    def set_bytes(self, found):
        self.codes = found.view(np.uint16).reshape(self.codes.shape)


class Int8Kv:
    """The numbers, then a float32 scale per position and head."""

    name = "_int8"

    def __init__(self, num_blocks, kv_heads, head_dim):
        self.shape = num_blocks, kv_heads, head_dim
        self.codes = np.full((num_blocks, 2, kv_heads, 16, head_dim), 0x7F, np.int8)
        self.scales = np.full((num_blocks, 2, kv_heads, 16), np.nan, np.float32)

    def put(self, slot, x):
        x = np.asarray(x, np.float32)
        largest = np.abs(x).max(-1)
        with np.errstate(divide="ignore"):
            inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
        scales = largest / np.float32(127)
        codes = np.rint(x * inverse[..., None])
        self.codes[slot // 16, :, :, slot % 16] = codes
        self.scales[slot // 16, :, :, slot % 16] = scales
        return codes * scales[..., None]

    def numbers(self):
        return self.codes * self.scales[..., None]

    def bytes(self):
        codes = in_order(self.codes).view(np.uint8).reshape(len(self.codes), -1)
        return np.concatenate([codes, self.scales.reshape(len(codes), -1).view(np.uint8)], 1)

    def set_bytes(self, found):
        codes = self.codes[0].size
        self.codes = out_of_order(found[:, :codes].view(np.int8).reshape(self.codes.shape))
        self.scales = found[:, codes:].copy().view(np.float32).reshape(self.scales.shape)


def e4m3_numbers():
    """What each of the 256 codes stands for."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, (code & 7).astype(np.float64)
    size = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10))
    size[code & 127 == 127] = np.nan
    return np.where(code & 128, -size, size).astype(np.float32)


E4M3 = e4m3_numbers()


class Fp8Kv:
    """E4M3, without scales."""

    name = "_fp8"

    def __init__(self, num_blocks, kv_heads, head_dim):
        self.shape = num_blocks, kv_heads, head_dim
        self.codes = np.full((num_blocks, 2, kv_heads, 16, head_dim), 0x7F, np.uint8)

    def put(self, slot, x):
        """The nearest; of two the one with the even code."""
        sizes = E4M3[:127].astype(np.float64)
        size = np.minimum(np.abs(x).astype(np.float64), 448)
        above = np.searchsorted(sizes, size).clip(0, 126)
        below = np.maximum(above - 1, 0)
        nearer = sizes[above] - size, size - sizes[below]
        take_above = (nearer[0] < nearer[1]) | ((nearer[0] == nearer[1]) & (above % 2 == 0))
        codes = np.where(take_above, above, below) | np.where(np.signbit(x), 128, 0)
        self.codes[slot // 16, :, :, slot % 16] = codes
        return E4M3[codes]

    def numbers(self):
        return E4M3[self.codes]

    def bytes(self):
        return in_order(self.codes).reshape(len(self.codes), -1)

    def set_bytes(self, found):
        self.codes = out_of_order(found.reshape(self.codes.shape))


KV_TYPES = [Bf16Kv, Int8Kv, Fp8Kv]


def random_slots(rng, blocks, count):
    return rng.permutation(blocks * 16)[:count].astype(i32)
