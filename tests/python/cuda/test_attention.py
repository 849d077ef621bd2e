"""Attention kernels against NumPy on random batches."""

import numpy as np
import pytest
from attention import Batch, attention
from emulator import floats
from kv import KV_TYPES
from reference import assert_close, i32, normal


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (37, 0.0), (0, 2.0)])
def test_decode_attention(gpu, rng, kv_type, head_dim, window, softcap):
    group, kv_heads = int(rng.choice([1, 3, 4, 8, 11])), int(rng.integers(1, 3))
    contexts = [int(rng.integers(1, 20)), int(rng.integers(20, 250)), int(rng.integers(257, 600))]
    batch = Batch(gpu, rng, [1, 0, 1], contexts, group * kv_heads, kv_heads, head_dim, window, softcap, kv_type)
    batch.decode(splits=int(rng.integers(1, 4)))
    batch.check()


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (37, 0.0), (0, 2.0)])
def test_prefill_attention(gpu, rng, kv_type, head_dim, window, softcap):
    queries = [int(rng.integers(2, 40)), 0, int(rng.integers(65, 90))]
    contexts = [n + int(rng.integers(0, 70)) for n in queries]
    batch = Batch(gpu, rng, queries, contexts, 4, [1, 2, 4, 2][gpu.seed], head_dim, window, softcap, kv_type)
    batch.prefill()
    batch.check()


def test_a_mixed_step_has_each_sequence_served_once(gpu, rng):
    batch = Batch(gpu, rng, [1, 20, 1, 0], [300, 50, 3, 17], 4, 2, 64)
    batch.prefill()
    batch.decode(splits=2)
    batch.check()


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_blocks_beyond_four_gib(gpu, rng, kv_type):
    kv_heads, head_dim, context = 2, 128, 20
    q = normal(rng, 1, 4 + 2 * kv_heads, head_dim)
    blocks = kv_type(2, kv_heads, head_dim)
    kv = np.stack([blocks.put(at, rng.standard_normal((2, kv_heads, head_dim))) for at in range(context)])
    block_bytes, ids = blocks.bytes()[0].nbytes, np.array([[599_990, 3]], i32)
    cache = gpu.allocate(600_000 * block_bytes)
    for block, at in zip(blocks.bytes(), ids[0], strict=True):
        gpu.upload(block, cache + int(at) * block_bytes)
    out = gpu.allocate(4 * head_dim * 2)
    lists = [gpu.upload(np.array(x, i32)) for x in (ids, [0, 1], [context])]
    sizes = i32(4), i32(kv_heads), i32(2), i32(0), 0.1, 0.0
    args = gpu.upload(q), cache, *lists, out, None, None, *sizes
    gpu.launch(f"ferrule_decode_attention{kv_type.name}_d128", (1, kv_heads, 1), 128, *args)
    k, v = kv.transpose(1, 0, 2, 3)
    expected = attention(floats(q)[:, :4], k, v, np.array([context - 1]), 0.1, 0, 0.0)
    assert_close(floats(gpu.download(out, (1, 4, head_dim), np.uint16)), expected)
