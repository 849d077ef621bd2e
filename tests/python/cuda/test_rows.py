"""Kernels that take rows or tokens one by one, against NumPy on random shapes, tails included."""

from ctypes import byref, c_size_t, c_uint64, c_void_p

import numpy as np
import pytest
from emulator import KernelFailure, bf16, floats
from kv import KV_TYPES, Bf16Kv, Int8Kv, random_slots
from reference import EPS, assert_close, i32, normal


def rms_norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


@pytest.mark.parametrize("form", ["", "_f16"])
def test_embed(gpu, rng, form):
    hidden = 8 * int(rng.integers(1, 200))
    table, tokens = normal(rng, 50, hidden), rng.integers(0, 50, 7).astype(i32)
    numbers = floats(table)
    if form == "_f16":
        table = (rng.standard_normal((50, hidden)) * 2.0 ** -rng.integers(0, 22, (50, hidden))).astype(np.float16)
        numbers = table.astype(np.float32)
    # Some are known, others were chosen a step before; where none could be, any token will do.
    chosen, sources = rng.permutation(50)[:5].astype(i32), np.array([-1, 4, 0, -1, 2, 3, 1], i32)
    chosen[3] = -1
    out = gpu.allocate(7 * hidden * 4)
    args = gpu.upload(tokens), gpu.upload(sources), gpu.upload(chosen), gpu.upload(table), out, 1.5, i32(hidden)
    gpu.launch(f"ferrule_embed{form}", (7,), 128, *args)
    expected = np.where(sources < 0, tokens, np.maximum(chosen[sources], 0))
    assert (gpu.download(out, (7, hidden), np.float32) == numbers[expected] * np.float32(1.5)).all()


@pytest.mark.parametrize("num_groups", [1, 3])
@pytest.mark.parametrize("num_seqs", [1, 5, 300])
def test_advance_batch(gpu, rng, num_groups, num_seqs):
    """The arrays of a step become those of the next one, in which rows without queries are padding."""
    max_blocks, round_up = 8, lambda count: -(-count // 4) * 4
    rows, table = round_up(num_seqs), num_seqs * max_blocks
    stride = rows + round_up(table)
    # Other arrays, positions, queries, and for each group slots and tables.
    first = 12
    before = rng.integers(0, 1000, first + rows + 4 * num_seqs + num_groups * stride).astype(i32)
    lens = rng.integers(1, 16 * max_blocks - 1, num_seqs).astype(i32)
    lens[rng.random(num_seqs) < 0.2] = 0

    def parts(arrays):
        groups = arrays[first + rows + 4 * num_seqs :].reshape(num_groups, stride)
        tables = groups[:, rows : rows + table].reshape(num_groups, num_seqs, max_blocks)
        queries = arrays[first + rows :][: 4 * num_seqs].reshape(num_seqs, 4)
        return arrays[first:][:num_seqs], queries, groups[:, :num_seqs], tables

    positions, queries, slots, _ = parts(before)
    positions[:], queries[:, 1], queries[:, 2] = np.maximum(lens - 1, 0), lens > 0, lens
    slots[:, lens == 0] = -1
    # Blocks that are new, one other word of a table, and one of the other arrays.
    places = np.arange(len(before), dtype=i32)
    new = [blocks[s, n // 16] for blocks in parts(places)[3] for s, n in enumerate(lens) if n % 16 == 0]
    changed = np.unique([*new, places[-1 - (stride - rows - table)], places[1]]).astype(i32)
    pairs = np.stack([changed, rng.integers(0, 1000, len(changed)).astype(i32)], 1)

    expected = before.copy()
    expected[pairs[:, 0]] = pairs[:, 1]
    positions, queries, slots, tables = parts(expected)
    real = np.flatnonzero(lens)
    positions[real] += 1
    queries[real, 2] += 1
    slots[:, real] = tables[:, real, positions[real] // 16] * 16 + positions[real] % 16

    arrays = gpu.upload(before)
    changes = gpu.upload(np.concatenate([[len(pairs)], pairs.ravel()]).astype(i32))
    groups = first + rows + 4 * num_seqs
    at = [arrays + 4 * place for place in (first, first + rows, groups, groups + rows)]
    sizes = i32(num_seqs), i32(max_blocks), i32(num_groups), i32(stride)
    gpu.launch("ferrule_advance_batch", (1,), 256, arrays, changes, *at, *sizes)
    assert (gpu.download(arrays, before.shape, i32) == expected).all()


@pytest.mark.parametrize("hidden", [8, 576, 4096, 5120, 16384])
def test_rms_norm_of_chosen_rows(gpu, rng, hidden):
    x, weight = rng.standard_normal((5, hidden)).astype(np.float32), rng.random(hidden).astype(np.float32)
    rows = np.array([3, 0, 3], i32)
    out = gpu.allocate(3 * hidden * 2)
    args = gpu.upload(x), gpu.upload(rows), gpu.upload(weight), out, i32(hidden), EPS
    gpu.launch("ferrule_rms_norm", (3,), 256 if hidden <= 4096 else 1024, *args)
    assert_close(floats(gpu.download(out, (3, hidden), np.uint16)), rms_norm(x[rows], weight))


@pytest.mark.parametrize("post", [False, True])
@pytest.mark.parametrize("following", [False, True])
@pytest.mark.parametrize("hidden", [576, 5120])
def test_add_rms_norm(gpu, rng, post, following, hidden):
    residual, projected = rng.standard_normal((3, hidden)).astype(np.float32), normal(rng, 3, hidden)
    weights = rng.random((2, hidden)).astype(np.float32)
    stream, out = gpu.upload(residual), gpu.allocate(3 * hidden * 2)
    args = stream, gpu.upload(projected), gpu.upload(weights[0]) if post else None
    after = (gpu.upload(weights[1]), out) if following else (None, None)
    gpu.launch("ferrule_add_rms_norm", (3,), 256 if hidden <= 4096 else 1024, *args, *after, i32(hidden), EPS)
    added = floats(projected)
    expected = residual + (rms_norm(added, weights[0]) if post else added)
    assert_close(gpu.download(stream, (3, hidden), np.float32), expected, 1e-6)
    if following:
        assert_close(floats(gpu.download(out, (3, hidden), np.uint16)), rms_norm(expected, weights[1]))


@pytest.mark.parametrize("kv_type", KV_TYPES)
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("extras", [False, True])
def test_rope_and_store(gpu, rng, kv_type, head_dim, extras):
    heads, kv_heads, tokens, blocks = int(rng.integers(1, 4)) * 2, 2, 5, 4
    rotary = head_dim if not extras else head_dim // 2
    all_heads = heads + 2 * kv_heads
    qkv = normal(rng, tokens, all_heads * head_dim)
    bias = rng.standard_normal(all_heads * head_dim).astype(np.float32)
    norms = rng.random((2, head_dim)).astype(np.float32)
    angles = rng.random((40, rotary // 2)) * 6
    table = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    positions, slots = rng.integers(0, 40, tokens).astype(i32), random_slots(rng, blocks, tokens)
    slots[1] = -1
    cache, before = kv_type(blocks, kv_heads, head_dim), kv_type(blocks, kv_heads, head_dim).bytes()
    on_gpu, stored = gpu.upload(qkv), gpu.upload(before)
    optional = [gpu.upload(x) if extras else None for x in (bias, *norms)]
    sizes = i32(heads), i32(kv_heads), i32(head_dim), i32(rotary), EPS
    args = on_gpu, *optional, gpu.upload(table), gpu.upload(positions), gpu.upload(slots), stored, *sizes
    gpu.launch(f"ferrule_rope_and_store{kv_type.name}", (tokens, -(-all_heads * head_dim // 1024)), 128, *args)

    x = floats(qkv) + (bias if extras else 0)
    x = x.reshape(tokens, all_heads, head_dim)
    if extras:
        x[:, :heads] = rms_norm(x[:, :heads], norms[0])
        x[:, heads:-kv_heads] = rms_norm(x[:, heads:-kv_heads], norms[1])
    half = rotary // 2
    left, right = x[:, :-kv_heads, :half].copy(), x[:, :-kv_heads, half:rotary].copy()
    cos, sin = table[positions, 0][:, None], table[positions, 1][:, None]
    x[:, :-kv_heads, :half], x[:, :-kv_heads, half:rotary] = left * cos - right * sin, right * cos + left * sin
    found = floats(gpu.download(on_gpu, (tokens, all_heads, head_dim), np.uint16))
    assert_close(found[:, :heads], x[:, :heads])
    cache.set_bytes(gpu.download(stored, before.shape, np.uint8))
    kept, expected = cache.numbers(), kv_type(blocks, kv_heads, head_dim)
    for token, slot in enumerate(slots):
        if slot >= 0:
            wanted = expected.put(int(slot), x[token, heads:].reshape(2, kv_heads, head_dim))
            # A number near the middle between two codes may become either.
            tolerance = {Bf16Kv: 0.01, Int8Kv: 0.017}.get(kv_type, 0.07)
            assert_close(kept[slot // 16, :, :, slot % 16], wanted, tolerance)
    untouched = np.ones(blocks * 16, bool)
    untouched[slots[slots >= 0]] = False
    stays = untouched.reshape(blocks, 16)
    for found, wild in zip(vars(cache).values(), vars(kv_type(blocks, kv_heads, head_dim)).values(), strict=True):
        if isinstance(found, np.ndarray):
            found, wild = np.moveaxis(found, 3, 1)[stays], np.moveaxis(wild, 3, 1)[stays]
            assert (found.view(np.uint8) == wild.view(np.uint8)).all()


@pytest.mark.parametrize("kv_type", KV_TYPES)
def test_values_are_stored_as_the_nearest(gpu, rng, kv_type):
    """Values are what is projected, so their codes are known to the bit."""
    heads, kv_heads, head_dim, tokens = 1, 2, 64, 16
    qkv = normal(rng, tokens, heads + 2 * kv_heads, head_dim)
    # Sizes of all orders, ties, and zeros.
    sizes = np.array([0, 2.0**-10, 3 * 2.0**-10, 0.0146484375, 0.9375, 1.0625, 17, 1000], np.float32)
    qkv[1::2, -kv_heads:, : len(sizes)] = bf16(sizes)
    qkv[3, -1] = 0
    cache, slots = kv_type(1, kv_heads, head_dim), np.arange(tokens, dtype=i32)
    stored = gpu.upload(cache.bytes())
    angles = gpu.upload(np.stack([np.ones((1, 32)), np.zeros((1, 32))], 1).astype(np.float32))
    positions = gpu.upload(np.zeros(tokens, i32))
    sizes = i32(heads), i32(kv_heads), i32(head_dim), i32(head_dim), EPS
    args = gpu.upload(qkv), None, None, None, angles, positions, gpu.upload(slots), stored, *sizes
    gpu.launch(f"ferrule_rope_and_store{kv_type.name}", (tokens, 1), 128, *args)
    for token in range(tokens):
        cache.put(token, floats(qkv)[token, heads:].reshape(2, kv_heads, head_dim))
    assert (gpu.download(stored, cache.bytes().shape, np.uint8) == cache.bytes()).all()


def silu(x):
    return x / (1 + np.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("function", [silu, gelu_tanh])
def test_gated_activation(gpu, rng, function):
    width = 8 * int(rng.integers(1, 300))
    gate_up = normal(rng, 3, 2, width)
    out = gpu.allocate(3 * width * 2)
    name = f"ferrule_gated_{function.__name__}"
    gpu.launch(name, (-(-width // 1024), 3), 128, gpu.upload(gate_up), out, i32(width))
    gate, up = floats(gate_up).transpose(1, 0, 2)
    assert_close(floats(gpu.download(out, (3, width), np.uint16)), function(gate) * up, 0.005)


def test_softcap(gpu, rng):
    logits = (rng.standard_normal((2, 1500)) * 40).astype(np.float32)
    address = gpu.upload(logits)
    gpu.launch("ferrule_softcap", (2, 2), 256, address, i32(1500), 30.0)
    assert_close(gpu.download(address, (2, 1500), np.float32), 30 * np.tanh(logits / 30), 1e-6)


def test_argmax_takes_the_first_of_the_largest(gpu, rng):
    logits = rng.integers(-50, 50, (4, int(rng.integers(1, 3000)))).astype(np.float32)
    out = gpu.allocate(16)
    gpu.launch("ferrule_argmax", (4,), 1024, gpu.upload(logits), out, i32(logits.shape[1]))
    assert (gpu.download(out, 4, i32) == logits.argmax(1)).all()


def test_copy_blocks(gpu, rng):
    cache = rng.integers(0, 256, (3, 6, 528)).astype(np.uint8)
    address, pairs = gpu.upload(cache), np.array([[5, 0], [2, 3]], i32)
    gpu.launch("ferrule_copy_blocks", (2, 3), 256, address, gpu.upload(pairs), np.int64(6), np.int64(528))
    cache[:, [0, 3]] = cache[:, [5, 2]]
    assert (gpu.download(address, cache.shape, np.uint8) == cache).all()


def by_kernel(library, to, cache, num_bytes):
    pairs = library.upload(np.array([0, (to - cache) // num_bytes], i32))
    library.launch("ferrule_copy_blocks", (1, 1), 256, cache, pairs, np.int64(2), np.int64(num_bytes))


def by_driver(library, to, cache, num_bytes):
    driver = library.library
    driver.cuMemcpyDtoDAsync_v2(c_uint64(to), c_uint64(cache), c_size_t(num_bytes), None)
    assert driver.cuCtxSynchronize() == 0


def by_way_of_the_host(library, to, cache, num_bytes):
    driver, host = library.library, c_void_p()
    driver.cuMemHostAlloc(byref(host), c_size_t(num_bytes), 0)
    driver.cuMemcpyDtoHAsync_v2(host, c_uint64(cache), c_size_t(num_bytes), None)
    driver.cuMemcpyHtoDAsync_v2(c_uint64(to), host, c_size_t(num_bytes), None)
    assert driver.cuCtxSynchronize() == 0
    assert driver.cuMemFreeHost(host) == 0


@pytest.mark.parametrize("copy", [by_kernel, by_driver, by_way_of_the_host])
def test_a_copy_of_what_nobody_wrote_may_be_made_but_not_used(library, copy):
    library.reset()
    if not library.checked:
        pytest.skip("only the checked build sees it")
    # Two blocks of two rows, of which the first one's first row is written.
    width, cache = 64, library.allocate(4 * 64 * 2)
    copied = cache + 2 * width * 2
    library.upload(np.ones(width, np.uint16), cache)
    copy(library, copied, cache, 2 * width * 2)
    out, known = library.allocate(width * 4), library.upload(np.array([-1], i32))

    def use(row):
        token = library.upload(np.array([row], i32))
        library.launch("ferrule_embed", (1,), 128, token, known, known, copied, out, 1.0, i32(width))
        return library.download(out, width, np.float32)

    assert (use(0) == floats(np.ones(width, np.uint16))).all()
    with pytest.raises(KernelFailure, match="NEVER WRITTEN: read of global memory"):
        use(1)
    library.upload(np.ones(width, np.uint16), cache + width * 2)
    copy(library, copied, cache, 2 * width * 2)
    assert (use(1) == use(0)).all()


def test_what_lies_outside_is_reported(library):
    library.reset()
    if not library.checked:
        pytest.skip("only the checked build sees it")
    table, out = library.upload(np.zeros(64, np.uint16)), library.allocate(4 * 63)
    zero = library.upload(np.zeros(1, i32))
    with pytest.raises(KernelFailure, match=r"OUT OF BOUNDS write of 16 bytes, 4 behind .* block \(0,0,0\) thread 15 "):
        library.launch("ferrule_embed", (1,), 128, zero, zero, zero, table, out, 1.0, i32(64))


@pytest.mark.parametrize("width", [64, 4096, 16384])
def test_columns_in_another_order(gpu, rng, width):
    """Heads may be padded: then there are fewer columns than the rows have."""
    tokens, columns = int(rng.integers(1, 5)), 8 * int(rng.integers(1, width // 8 + 1))
    x, order = normal(rng, tokens, width), rng.permutation(width)[:columns].astype(i32)
    out = gpu.allocate(tokens * columns * 2)
    gpu.launch("ferrule_order_columns", (tokens,), 256, gpu.upload(x), gpu.upload(order), out, i32(width), i32(columns))
    assert (gpu.download(out, (tokens, columns), np.uint16) == x[:, order]).all()
