"""What kernels read and write, counted by the emulator: sectors of global memory, wavefronts of shared memory.

The lanes of a warp that come to a place for the n-th time make one request. Global memory moves sectors of 32 bytes;
shared memory serves 32 banks of 4 bytes at a time, 16-byte accesses a quarter of a warp at a time.
"""

import ctypes
from dataclasses import dataclass

import numpy as np
from attention import Batch
from emulator import FORWARD
from kv import Bf16Kv, Fp8Kv, Int8Kv
from reference import i32, normal
from weights import (
    Bf16Weights,
    F16Weights,
    Int4LineWeights,
    Int4Weights,
    Int8LineWeights,
    Int8Weights,
    Mxfp4Weights,
    grouped_product,
    product,
    skinny_product,
    wide_panels,
)

SECTOR = 32
WRITE, SHARED = 1, 2
ACCESS = np.dtype(
    [
        ("place", np.uint64),
        ("address", np.uint64),
        ("warp", np.uint32),
        ("visit", np.uint32),
        ("bytes", np.uint16),
        ("lane", np.uint8),
        ("flags", np.uint8),
        ("unused", np.uint32),
    ]
)
# A place is hot with this share of all requests of its kind.
HOT = 0.05


@dataclass(frozen=True)
class Traffic:
    # Bytes of all sectors that were touched, and of all that requests asked for.
    unique: int
    requested: int
    # Of the hot place that wastes most: bytes of lanes over bytes of sectors, and wavefronts over the fewest possible.
    sector_efficiency: float
    bank_conflicts: float


def traced(gpu, run):
    """The accesses of what `run` launches."""
    gpu.library.emu_trace_len.restype = ctypes.c_size_t
    gpu.library.emu_trace_data.restype = ctypes.c_void_p
    gpu.library.emu_trace(1)
    run()
    gpu.library.emu_trace(0)
    count = gpu.library.emu_trace_len()
    data = ctypes.string_at(gpu.library.emu_trace_data(), count * ACCESS.itemsize)
    return np.frombuffer(data, ACCESS)


def requests(accesses):
    """A number per access: equal ones are one request."""
    keys = np.stack([accesses["place"], accesses["flags"], accesses["warp"], accesses["visit"]], 1)
    return np.unique(keys, axis=0, return_inverse=True)[1].ravel()


def sums(groups, values):
    return np.bincount(groups, values)


def global_requests(accesses):
    """Per request its place, sectors, and bytes of lanes."""
    request = requests(accesses)
    first = accesses["address"] // SECTOR
    last = (accesses["address"] + accesses["bytes"] - 1) // SECTOR
    assert (first == last).all()
    pairs = np.unique(np.stack([request.astype(np.uint64), first], 1), axis=0)
    spans = np.unique(np.stack([request.astype(np.uint64), accesses["address"], accesses["bytes"]], 1), axis=0)
    places = np.zeros(request.max() + 1, np.uint64)
    places[request] = accesses["place"] * 4 + accesses["flags"]
    return places, sums(pairs[:, 0].astype(int), None), sums(spans[:, 0].astype(int), spans[:, 2])


def shared_requests(accesses):
    """Per request its place, wavefronts, and the fewest that its bytes need."""
    request = requests(accesses)
    # Lanes that are served together, and the words that they want.
    together = np.where(accesses["bytes"] == 16, 8, np.where(accesses["bytes"] == 8, 16, 32))
    phase = request * 4 + accesses["lane"] // together
    words = [accesses["address"] // 4 + i for i in range(4)]
    wanted = [
        np.stack([phase[accesses["bytes"] > 4 * i], w[accesses["bytes"] > 4 * i]], 1) for i, w in enumerate(words)
    ]
    wanted = np.unique(np.concatenate(wanted).astype(np.int64), axis=0)
    per_bank = np.bincount(wanted[:, 0] * 32 + wanted[:, 1] % 32, minlength=(phase.max() + 1) * 32).reshape(-1, 32)
    wavefronts = per_bank.max(1)[: phase.max() + 1]
    padded = np.zeros((request.max() + 1) * 4, np.int64)
    padded[: len(wavefronts)] = wavefronts
    fewest = np.zeros_like(padded)
    counts = -(-per_bank.sum(1) // 32)
    fewest[: len(counts)] = counts
    places = np.zeros(request.max() + 1, np.uint64)
    places[request] = accesses["place"] * 4 + accesses["flags"]
    return places, padded.reshape(-1, 4).sum(1), fewest.reshape(-1, 4).sum(1)


def worst(places, cost, least):
    """The largest cost over the least possible one, of a hot place."""
    place = np.unique(places, return_inverse=True)[1].ravel()
    cost, least = sums(place, cost), sums(place, least)
    hot = cost >= HOT * cost.sum()
    return float((cost[hot] / least[hot]).max())


def measure(gpu, run):
    accesses = traced(gpu, run)
    is_shared = accesses["flags"] & SHARED > 0
    places, sectors, lanes = global_requests(accesses[~is_shared])
    touched = accesses[~is_shared]
    unique = len(np.unique(np.stack([touched["address"] // SECTOR, touched["flags"]], 1), axis=0))
    conflicts = worst(*shared_requests(accesses[is_shared])) if is_shared.any() else 1.0
    return Traffic(
        unique=unique * SECTOR,
        requested=int(sectors.sum()) * SECTOR,
        sector_efficiency=1 / worst(places, sectors * SECTOR, lanes),
        bank_conflicts=conflicts,
    )


# Kernels by what they are, each with a run and the fewest bytes that it must move.


def decode(gpu, rng, head_dim, group, context, splits, kv_type=Bf16Kv):
    batch = Batch(gpu, rng, [1, 1], [context] * 2, 2 * group, 2, head_dim, kv_type=kv_type, num_prompt=[0, 0])
    position = {Bf16Kv: 2 * head_dim, Int8Kv: head_dim + 4, Fp8Kv: head_dim}[kv_type]
    least = 2 * context * 2 * 2 * position + 2 * 2 * (2 * group) * head_dim * 2
    return lambda: batch.decode(splits), least


def prefill(gpu, rng, head_dim, queries, kv_type=Bf16Kv):
    batch = Batch(gpu, rng, [queries], [queries], 2, 2, head_dim, kv_type=kv_type)
    position = {Bf16Kv: 2 * head_dim, Int8Kv: head_dim + 4}[kv_type]
    return batch.prefill, queries * 2 * 2 * (2 * head_dim + position)


# Columns that a scale serves: as in AWQ's and GPTQ's files, Q4_1 and Q4_K, Q6_K.
GROUPS = {Int4Weights: 128, Int4LineWeights: 32, Int8LineWeights: 16}


def matrix(rng, kind, n, k):
    return kind(rng, n, k, group=GROUPS[kind]) if kind in GROUPS else kind(rng, n, k)


def gemm(gpu, rng, kind, m, n, k):
    weights, x = matrix(rng, kind, n, k), normal(rng, m, k)
    return lambda: product(gpu, weights, x, n, np.uint16), 2 * m * (k + n) + weights.num_bytes()


def skinny(gpu, rng, kind, m, n, k, panels):
    weights, x, rows = matrix(rng, kind, n, k), normal(rng, m, k), next(rows for rows in (8, 16, 32) if m <= rows)
    run = lambda: skinny_product(gpu, weights, x, n, np.uint16, rows, panels)  # noqa: E731
    return run, 2 * m * (k + n) + weights.num_bytes()


def experts(gpu, rng, kind, tokens, top_k, num_experts, n, k):
    """Products of a decode step: the matrices of experts that a token takes are read once."""
    weights = matrix(rng, kind, num_experts * n, k)
    taken = np.sort(np.concatenate([rng.permutation(num_experts)[:top_k] for _ in range(tokens)]))
    starts = np.searchsorted(taken, np.arange(num_experts + 1)).astype(i32)
    rows = gpu.upload(normal(rng, len(taken), k))
    read = weights.num_bytes() // num_experts * len(np.unique(taken))
    run = lambda: grouped_product(gpu, weights, rows, starts, len(taken), n, k, 8, wide_panels(weights, 8)[-1])  # noqa: E731
    return run, read + 2 * len(taken) * (k + n) + starts.nbytes


def norm(gpu, rng, hidden, rows):
    stream = gpu.upload(rng.standard_normal((rows, hidden)).astype(np.float32))
    weight, projected = gpu.upload(rng.random(hidden).astype(np.float32)), gpu.upload(normal(rng, rows, hidden))
    out = gpu.allocate(rows * hidden * 2)
    args = stream, projected, None, weight, out, i32(hidden), 1e-5
    run = lambda: gpu.launch("ferrule_add_rms_norm", (rows,), 256, *args)  # noqa: E731
    return run, rows * hidden * (4 + 2 + 4 + 2) + hidden * 4


CASES = {
    "decode attention, heads of 128, 4 queries a KV head, 2048 positions": (decode, 128, 4, 2048, 4),
    "decode attention, heads of 64, 3 queries a KV head, 2048 positions": (decode, 64, 3, 2048, 4),
    "decode attention, heads of 256, 2 queries a KV head, 2048 positions": (decode, 256, 2, 2048, 4),
    "decode attention over int8, heads of 128, 4 queries a KV head, 2048 positions": (decode, 128, 4, 2048, 4, Int8Kv),
    "decode attention over fp8, heads of 64, 3 queries a KV head, 2048 positions": (decode, 64, 3, 2048, 4, Fp8Kv),
    "product of 1 row with 4 bits, groups of 128": (skinny, Int4Weights, 1, 256, 2048, 1),
    "product of 1 row with 4 bits and minima, groups of 32": (skinny, Int4LineWeights, 1, 256, 2048, 1),
    "product of 1 row with 8 bits and minima, groups of 16": (skinny, Int8LineWeights, 1, 256, 2048, 1),
    "product of 1 row with MXFP4": (skinny, Mxfp4Weights, 1, 256, 2048, 1),
    "product of 1 row with 8 bits": (skinny, Int8Weights, 1, 256, 2048, 1),
    "product of 1 row with bf16": (skinny, Bf16Weights, 1, 256, 2048, 1),
    "product of 1 row with f16": (skinny, F16Weights, 1, 256, 2048, 1),
    "product of 8 rows with 4 bits, groups of 128": (skinny, Int4Weights, 8, 1024, 1024, 8),
    "product of 8 rows with 4 bits and minima, groups of 32": (skinny, Int4LineWeights, 8, 1024, 1024, 8),
    "product of 8 rows with 8 bits and minima, groups of 16": (skinny, Int8LineWeights, 8, 1024, 1024, 4),
    "product of 8 rows with MXFP4": (skinny, Mxfp4Weights, 8, 1024, 1024, 8),
    "product of 8 rows with 8 bits": (skinny, Int8Weights, 8, 1024, 1024, 4),
    "product of 8 rows with bf16": (skinny, Bf16Weights, 8, 512, 1024, 2),
    "product of 8 rows with f16": (skinny, F16Weights, 8, 512, 1024, 2),
    "product of 16 rows with 4 bits, groups of 128": (skinny, Int4Weights, 16, 1024, 1024, 16),
    "products of 8 tokens with 2 of 8 experts each, 4 bits": (experts, Int4Weights, 8, 2, 8, 256, 1024),
    "products of 8 tokens with 2 of 8 experts each, bf16": (experts, Bf16Weights, 8, 2, 8, 64, 1024),
    "product of 128 rows with 4 bits, groups of 128": (gemm, Int4Weights, 128, 128, 1024),
    "product of 128 rows with 4 bits and minima, groups of 32": (gemm, Int4LineWeights, 128, 128, 1024),
    "product of 128 rows with bf16": (gemm, Bf16Weights, 128, 128, 1024),
    "product of 128 rows with f16": (gemm, F16Weights, 128, 128, 1024),
    "add and norm, rows of 4096": (norm, 4096, 4),
    "product of 8 rows with 4 bits, few columns": (skinny, Int4Weights, 8, 256, 2048, 1),
    "product of 16 rows with 4 bits, blocks of 64 columns": (skinny, Int4Weights, 16, 512, 1024, 4),
    "product of 32 rows with 4 bits, groups of 128": (skinny, Int4Weights, 32, 1024, 1024, 8),
    "product of 256 rows with 4 bits, groups of 128": (gemm, Int4Weights, 256, 256, 512),
    "prefill attention, heads of 128, 256 queries": (prefill, 128, 256),
    "prefill attention over int8, heads of 128, 256 queries": (prefill, 128, 256, Int8Kv),
}
# These ask for x or for keys once per tile of what they make, which caches answer; evidence.py says why.
ASKED_AGAIN = [
    "product of 8 rows with 4 bits, few columns",
    "product of 16 rows with 4 bits, blocks of 64 columns",
    "product of 32 rows with 4 bits, groups of 128",
    "product of 256 rows with 4 bits, groups of 128",
    "prefill attention, heads of 128, 256 queries",
    "prefill attention over int8, heads of 128, 256 queries",
]


def measure_case(gpu, name):
    """A case's traffic, and the fewest bytes that it must move."""
    gpu.reset(order=FORWARD)
    make, *args = CASES[name]
    run, least = make(gpu, np.random.default_rng(7), *args)
    return measure(gpu, run), least
