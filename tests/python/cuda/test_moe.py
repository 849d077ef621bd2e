"""Mixture of experts: routing, sorting, products by expert, and the sum of them."""

import numpy as np
import pytest
from emulator import bf16, floats
from reference import assert_close, i32, normal
from weights import WEIGHTS, grouped_product, wide_panels


@pytest.mark.parametrize("num_experts", [8, 60, 128])
@pytest.mark.parametrize("normalize", [0, 1])
def test_moe_route(gpu, rng, num_experts, normalize):
    tokens, top_k = int(rng.integers(1, 9)), int(rng.integers(1, 9))
    # Many equals: the first wins.
    router = (rng.integers(-9, 9, (tokens, num_experts)) / 4).astype(np.float32)
    experts, weights = gpu.allocate(tokens * top_k * 4), gpu.allocate(tokens * top_k * 4)
    sizes = i32(num_experts), i32(top_k), i32(normalize)
    gpu.launch("ferrule_moe_route", (tokens,), 32, gpu.upload(router), experts, weights, *sizes)
    order = np.argsort(-router, 1, kind="stable")[:, :top_k]
    assert (gpu.download(experts, (tokens, top_k), i32) == order).all()
    shares = np.exp(router - router.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    expected = np.take_along_axis(shares, order, 1)
    if normalize:
        expected /= expected.sum(1, keepdims=True)
    assert_close(gpu.download(weights, (tokens, top_k), np.float32), expected, 1e-5)


def sorted_rows(experts, num_experts):
    """Where each expert's rows begin, and the row of each entry."""
    flat = experts.ravel()
    places = np.empty(flat.size, i32)
    places[np.argsort(flat, kind="stable")] = np.arange(flat.size)
    return np.searchsorted(np.sort(flat), np.arange(num_experts + 1)).astype(i32), places


def test_moe_sort(gpu, rng):
    num_experts, entries = int(rng.integers(1, 200)), int(rng.integers(1, 300))
    experts = rng.integers(0, num_experts, entries).astype(i32)
    starts, places = gpu.allocate((num_experts + 1) * 4), gpu.allocate(entries * 4)
    gpu.launch("ferrule_moe_sort", (1,), 256, gpu.upload(experts), starts, places, i32(entries), i32(num_experts))
    expected = sorted_rows(experts, num_experts)
    assert (gpu.download(starts, num_experts + 1, i32) == expected[0]).all()
    assert (gpu.download(places, entries, i32) == expected[1]).all()


@pytest.mark.parametrize("kind", WEIGHTS)
def test_moe_products_of_experts_with_their_tokens(gpu, rng, kind):
    """From tokens in their own order, by way of rows in the experts' order, back to tokens."""
    num_experts, top_k, tokens, k, n = 5, 2, int(rng.integers(1, 100)), 64, 16 * int(rng.integers(1, 11))
    # One expert has no tokens.
    experts = np.stack([rng.permutation(num_experts - 1)[:top_k] for _ in range(tokens)]).astype(i32)
    shares = rng.random((tokens, top_k)).astype(np.float32)
    x, all_weights = normal(rng, tokens, k), kind(rng, num_experts * n, k)
    starts, places = sorted_rows(experts, num_experts)
    places_on_gpu = gpu.upload(places)
    rows = gpu.allocate(tokens * top_k * k * 2)
    gpu.launch("ferrule_moe_gather", (tokens * top_k,), 128, gpu.upload(x), places_on_gpu, rows, i32(k), i32(top_k))
    wide = [(rows, panels) for rows in (8, 32) for panels in wide_panels(all_weights, rows)]
    forms = (None, 1), (8, 1), (32, 1), *wide
    products = [grouped_product(gpu, all_weights, rows, starts, tokens * top_k, n, k, *form) for form in forms]
    in_tiles, *skinny = [gpu.download(made, (tokens * top_k, n), np.uint16) for made in products]
    assert all((made == in_tiles).all() for made in skinny), "bits do not depend on the kernel"
    out = gpu.allocate(tokens * n * 2)
    args = products[0], places_on_gpu, gpu.upload(shares), out, i32(n), i32(top_k)
    gpu.launch("ferrule_moe_combine", (-(-n // 512), tokens), 128, *args)
    matrices = all_weights.values().reshape(num_experts, n, k)
    each = floats(bf16(np.einsum("tkni,ti->tkn", matrices[experts], floats(x))))
    expected = np.einsum("tk,tkn->tn", shares, each)
    assert_close(floats(gpu.download(out, (tokens, n), np.uint16)), expected, 0.01)
