"""Attention kernels against NumPy on random batches."""

from itertools import pairwise

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
    batch = Batch(
        gpu, rng, [1, 0, 3], contexts, group * kv_heads, kv_heads, head_dim, window, softcap, kv_type, [0, 0, 0]
    )
    batch.decode(splits=int(rng.integers(1, 4)))
    batch.check()


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (37, 0.0), (0, 2.0)])
def test_prefill_attention(gpu, rng, kv_type, head_dim, window, softcap):
    queries = [int(rng.integers(1, 40)), 0, int(rng.integers(65, 90))]
    contexts = [n + int(rng.integers(0, 70)) for n in queries]
    batch = Batch(gpu, rng, queries, contexts, 4, [1, 2, 4, 2][gpu.seed], head_dim, window, softcap, kv_type)
    batch.prefill()
    batch.check()


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("window", [0, 37, 100])
def test_chunks_of_a_prompt_have_the_bits_of_the_whole(gpu, rng, kv_type, head_dim, window):
    """Whatever queries a step has beside one, also none."""
    num_queries, cached = int(rng.integers(140, 180)), int(rng.integers(0, 50))
    context = cached + num_queries
    batch = Batch(gpu, rng, [num_queries], [context], 2, 1, head_dim, window, 0.0, kv_type)
    batch.prefill()
    whole = batch.attended()
    cuts = np.unique([cached, cached + 1, *rng.integers(cached + 1, context, 3), context - 1, context])
    gpu.upload(np.zeros_like(whole), batch.out)
    for first, end in pairwise(cuts):
        batch.prefill([(0, first, end)])
    assert (batch.attended() == whole).all()


def test_a_mixed_step_has_each_query_served_once(gpu, rng):
    """One query of a prompt, many, generated ones, none, and the end of a prompt before what was generated."""
    num_prompt = [1, 20, 0, 0, 5]
    batch = Batch(gpu, rng, [1, 20, 1, 0, 8], [300, 50, 3, 17, 270], 4, 2, 64, num_prompt=num_prompt)
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
    lists = [gpu.upload(np.array(x, i32)) for x in (ids, [0, 1, context, 0])]
    sizes = i32(4), i32(kv_heads), i32(2), i32(0), 0.1, 0.0
    args = gpu.upload(q), cache, *lists, out, None, None, *sizes
    gpu.launch(f"ferrule_decode_attention{kv_type.name}_d128", (1, kv_heads, 1), 128, *args)
    k, v = kv.transpose(1, 0, 2, 3)
    expected = attention(floats(q)[:, :4], k, v, np.array([context - 1]), 0.1, 0, 0.0)
    assert_close(floats(gpu.download(out, (1, 4, head_dim), np.uint16)), expected)
