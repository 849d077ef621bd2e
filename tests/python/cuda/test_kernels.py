"""Every kernel against NumPy on random shapes, tails included."""

import numpy as np
import pytest
from emulator import KernelFailure, bf16, floats

i32 = np.int32
EPS = 1e-5


@pytest.fixture
def rng(gpu):
    return np.random.default_rng(gpu.seed)


def normal(rng, *shape):
    """Random values that are exact in bf16, as bits."""
    return bf16(rng.standard_normal(shape))


def assert_close(found, expected, tolerance=0.01):
    """Differences within the rounding of bf16, relative to the largest value."""
    assert found.shape == expected.shape
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def rms_norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def test_embed(gpu, rng):
    hidden = 8 * int(rng.integers(1, 200))
    table, tokens = normal(rng, 50, hidden), rng.integers(0, 50, 7).astype(i32)
    out = gpu.allocate(7 * hidden * 4)
    gpu.launch("ferrule_embed", (7,), 128, gpu.upload(tokens), gpu.upload(table), out, 1.5, i32(hidden))
    assert (gpu.download(out, (7, hidden), np.float32) == floats(table)[tokens] * np.float32(1.5)).all()


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


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("extras", [False, True])
def test_rope_and_store(gpu, rng, head_dim, extras):
    heads, kv_heads, tokens, blocks = int(rng.integers(1, 4)) * 2, 2, 5, 4
    rotary = head_dim if not extras else head_dim // 2
    all_heads = heads + 2 * kv_heads
    qkv = normal(rng, tokens, all_heads * head_dim)
    bias = rng.standard_normal(all_heads * head_dim).astype(np.float32)
    norms = rng.random((2, head_dim)).astype(np.float32)
    angles = rng.random((40, rotary // 2)) * 6
    table = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    positions, slots = rng.integers(0, 40, tokens).astype(i32), rng.permutation(blocks * 16)[:tokens].astype(i32)
    slots[1] = -1
    cache = np.full((blocks, 2, kv_heads, 16, head_dim), 0x7FC0, np.uint16)
    on_gpu, stored = gpu.upload(qkv), gpu.upload(cache)
    optional = [gpu.upload(x) if extras else None for x in (bias, *norms)]
    sizes = i32(heads), i32(kv_heads), i32(head_dim), i32(rotary), EPS
    args = on_gpu, *optional, gpu.upload(table), gpu.upload(positions), gpu.upload(slots), stored, *sizes
    gpu.launch("ferrule_rope_and_store", (tokens, -(-all_heads * head_dim // 1024)), 128, *args)

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
    kept = gpu.download(stored, cache.shape, np.uint16)
    for token, slot in enumerate(slots):
        if slot >= 0:
            assert_close(floats(kept[slot // 16, :, :, slot % 16]), x[token, heads:].reshape(2, kv_heads, head_dim))
            kept[slot // 16, :, :, slot % 16] = 0x7FC0
    assert (kept == cache).all()


def attention(q, k, v, positions, scale, window, softcap):
    """q (queries, heads, d), k and v (positions, kv_heads, d); in float64."""
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1).astype(np.float64), np.repeat(v, group, 1)
    scores = np.einsum("qhd,khd->hqk", q, k) * scale
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
    at = np.arange(len(k))
    seen = at <= positions[:, None]
    if window:
        seen &= at > positions[:, None] - window
    scores = np.where(seen, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), v)


class Batch:
    """Sequences in a paged cache. What no query may see is NaN, and blocks that none sees have wild numbers."""

    def __init__(self, gpu, rng, num_queries, contexts, heads, kv_heads, head_dim, window=0, softcap=0.0):
        self.gpu, self.contexts, self.starts = gpu, contexts, np.cumsum([0, *num_queries]).astype(i32)
        self.shape, self.window, self.softcap = (heads, kv_heads, head_dim), window, softcap
        self.scale = head_dim**-0.5
        self.qkv = normal(rng, self.starts[-1], heads + 2 * kv_heads, head_dim)
        self.kv = [normal(rng, context, 2, kv_heads, head_dim) for context in contexts]
        needed = [-(-context // 16) for context in contexts]
        ids = iter(rng.permutation(sum(needed) + 2))
        self.tables = np.full((len(contexts), max(needed) + 1), 0x7FFFFFF, i32)
        cache = np.full((sum(needed) + 2, 2, kv_heads, 16, head_dim), 0x7FC0, np.uint16)
        for s, (context, queries) in enumerate(zip(contexts, num_queries, strict=True)):
            oldest = max(0, context - queries - window + 1) if window else 0
            for block in range(oldest // 16, needed[s]):
                self.tables[s, block] = next(ids)
            for at in range(oldest, context):
                cache[self.tables[s, at // 16], :, :, at % 16] = self.kv[s][at]
        self.addresses = [gpu.upload(x) for x in (self.qkv, cache, self.tables, self.starts, np.array(contexts, i32))]
        self.out = gpu.upload(np.zeros((self.starts[-1], heads, head_dim), np.uint16))

    def sizes(self):
        heads, kv_heads, _ = self.shape
        widths = i32(heads), i32(kv_heads), i32(self.tables.shape[1]), i32(self.window)
        return *widths, self.scale, self.softcap

    def prefill(self):
        heads, _, head_dim = self.shape
        shared = {64: 46080, 128: 87040, 256: 101376}[head_dim]
        grid = (-(-int(np.diff(self.starts).max()) // 64), heads, len(self.contexts))
        name = f"ferrule_prefill_attention_d{head_dim}"
        self.gpu.launch(name, grid, 128, *self.addresses, self.out, *self.sizes(), shared=shared)

    def decode(self, splits):
        heads, kv_heads, head_dim = self.shape
        partial = [self.gpu.allocate(len(self.contexts) * heads * splits * n * 4) for n in (head_dim, 2)]
        grid = (splits, kv_heads * -(-heads // kv_heads // 8), len(self.contexts))
        name = f"ferrule_decode_attention_d{head_dim}"
        self.gpu.launch(name, grid, 128, *self.addresses, self.out, *partial, *self.sizes())
        sizes = i32(heads), i32(head_dim), i32(splits), i32(self.window)
        args = *partial, *self.addresses[3:], self.out, *sizes
        self.gpu.launch("ferrule_merge_splits", (heads, len(self.contexts)), 64, *args)

    def check(self):
        """Rows of the kernels that ran."""
        heads, _, head_dim = self.shape
        found = floats(self.gpu.download(self.out, (self.starts[-1], heads, head_dim), np.uint16))
        for s, context in enumerate(self.contexts):
            rows = slice(self.starts[s], self.starts[s + 1])
            positions = context - (rows.stop - rows.start) + np.arange(rows.stop - rows.start)
            k, v = floats(self.kv[s]).transpose(1, 0, 2, 3)
            q = floats(self.qkv)[rows, :heads]
            if len(q):
                assert_close(found[rows], attention(q, k, v, positions, self.scale, self.window, self.softcap), 0.015)


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (37, 0.0), (0, 2.0)])
def test_decode_attention(gpu, rng, head_dim, window, softcap):
    group, kv_heads = int(rng.choice([1, 3, 4, 8, 11])), int(rng.integers(1, 3))
    contexts = [int(rng.integers(1, 20)), int(rng.integers(20, 250)), int(rng.integers(257, 600))]
    batch = Batch(gpu, rng, [1, 0, 1], contexts, group * kv_heads, kv_heads, head_dim, window, softcap)
    batch.decode(splits=int(rng.integers(1, 4)))
    batch.check()


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize(("window", "softcap"), [(0, 0.0), (37, 0.0), (0, 2.0)])
def test_prefill_attention(gpu, rng, head_dim, window, softcap):
    queries = [int(rng.integers(2, 40)), 0, int(rng.integers(65, 90))]
    contexts = [n + int(rng.integers(0, 70)) for n in queries]
    batch = Batch(gpu, rng, queries, contexts, 4, int(rng.choice([1, 2, 4])), head_dim, window, softcap)
    batch.prefill()
    batch.check()


def test_a_mixed_step_has_each_sequence_served_once(gpu, rng):
    batch = Batch(gpu, rng, [1, 20, 1, 0], [300, 50, 3, 17], 4, 2, 64)
    batch.prefill()
    batch.decode(splits=2)
    batch.check()


def test_blocks_beyond_four_gib(gpu, rng):
    kv_heads, head_dim, context = 2, 128, 20
    kv, q = normal(rng, 2, kv_heads, context, head_dim), normal(rng, 1, 4 + 2 * kv_heads, head_dim)
    block_bytes, ids = kv[:, :, :16].nbytes, np.array([[599_990, 3]], i32)
    cache = gpu.allocate(600_000 * block_bytes)
    for i, at in enumerate([slice(0, 16), slice(16, 20)]):
        block = np.full((2, kv_heads, 16, head_dim), 0x7FC0, np.uint16)
        block[:, :, : at.stop - at.start] = kv[:, :, at]
        gpu.upload(block, cache + int(ids[0, i]) * block_bytes)
    out = gpu.allocate(4 * head_dim * 2)
    lists = [gpu.upload(np.array(x, i32)) for x in (ids, [0, 1], [context])]
    sizes = i32(4), i32(kv_heads), i32(2), i32(0), 0.1, 0.0
    args = gpu.upload(q), cache, *lists, out, None, None, *sizes
    gpu.launch("ferrule_decode_attention_d128", (1, kv_heads, 1), 128, *args)
    k, v = floats(kv).transpose(0, 2, 1, 3)
    expected = attention(floats(q)[:, :4], k, v, np.array([context - 1]), 0.1, 0, 0.0)
    assert_close(floats(gpu.download(out, (1, 4, head_dim), np.uint16)), expected)


def padded(x, rows, cols):
    return np.pad(x, [(0, -len(x) % rows), (0, -x.shape[1] % cols)])


def factors_by_panel(x):
    """(n, groups) to (panels, groups, 8, 2): rows g and g + 8 of a panel side by side."""
    x = padded(x, 16, 1)
    return x.reshape(-1, 2, 8, x.shape[1]).transpose(0, 3, 2, 1)


class Bf16Weights:
    name, shared = "", 98304

    def __init__(self, rng, n, k):
        self.bits = normal(rng, n, k)

    def args(self, gpu):
        return (gpu.upload(self.bits),)

    def sizes(self):
        return ()


class Int4Weights:
    name, shared = "_int4", 63744

    def __init__(self, rng, n, k):
        self.group = next(group for group in rng.permutation([32, 64, 128]) if k % group == 0)
        self.codes = rng.integers(0, 16, (n, k))
        self.scales = (rng.standard_normal((n, k // self.group)) / 4).astype(np.float16)
        self.zeros = rng.integers(0, 17, self.scales.shape) if rng.integers(2) else None
        zeros = 8 if self.zeros is None else np.repeat(self.zeros, self.group, 1)
        self.bits = bf16((self.codes - zeros) * np.repeat(self.scales, self.group, 1).astype(np.float32))

    def args(self, gpu):
        codes = padded(self.codes, 16, 64).astype(np.uint32)
        # (panel, half, g, block, step, t, i)
        codes = codes.reshape(-1, 2, 8, codes.shape[1] // 64, 2, 4, 8)
        shifts = np.array([0, 16, 4, 20, 8, 24, 12, 28], np.uint32)
        words = (codes << shifts).sum(-1, dtype=np.uint32).transpose(0, 3, 2, 5, 4, 1)
        zeros = self.zeros if self.zeros is None else gpu.upload(factors_by_panel(self.zeros).astype(np.uint8))
        return gpu.upload(words), gpu.upload(factors_by_panel(self.scales)), zeros

    def sizes(self):
        return (i32(int(self.group).bit_length() - 1),)


class Int8Weights:
    name, shared = "_int8", 75264

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

    def args(self, gpu):
        codes = padded(self.codes, 16, 32).astype(np.int8).view(np.uint8)
        # (panel, half, g, block, t, word, byte): pairs of k are two bytes apart
        codes = codes.reshape(-1, 2, 8, codes.shape[1] // 32, 4, 2, 4)[..., [0, 2, 1, 3]]
        return gpu.upload(codes.transpose(0, 3, 2, 4, 1, 5, 6)), gpu.upload(factors_by_panel(self.scales))

    def sizes(self):
        return (i32(5),)


def product(gpu, kernel, weights, x, n, out_type, splits=None):
    """The kernel's out: skinny, or in tiles with `splits` blocks each."""
    m, k = x.shape
    out = gpu.allocate(m * n * 4)
    sizes = i32(m), i32(n), i32(k), *weights.sizes()
    if splits is None:
        gpu.launch(kernel, (-(-n // 16),), 256, gpu.upload(x), *weights.args(gpu), out, *sizes)
        return gpu.download(out, (m, n), out_type)
    partials = gpu.allocate(8 * m * n * 4) if splits > 1 else None
    grid, args = (-(-m // 128), -(-n // 128), splits), (gpu.upload(x), *weights.args(gpu), out, partials)
    gpu.launch(kernel, grid, 256, *args, *sizes, shared=weights.shared)
    if splits > 1:
        kind = "_f32" if out_type == np.float32 else ""
        gpu.launch(f"ferrule_sum_parts{kind}", (-(-m * n // 256),), 256, partials, out, np.int64(m * n))
    return gpu.download(out, (m, n), out_type)


def check_product(weights, x, found):
    expected = floats(x) @ floats(weights.bits).T
    if found.dtype == np.float32:
        assert_close(found, expected, 1e-5)
    else:
        assert_close(floats(found), expected, 0.005)


WEIGHTS = [Bf16Weights, Int4Weights, Int8Weights]


def some_k(rng, weights, most):
    """k in multiples of 8, or for quantized weights of 32."""
    unit = 8 if weights is Bf16Weights else 32
    return unit * int(rng.integers(1, most // unit))


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("out", [np.uint16, np.float32])
def test_gemm(gpu, rng, kind, out):
    m, n, k = int(rng.integers(1, 140)), int(rng.integers(1, 140)), some_k(rng, kind, 700)
    weights, x = kind(rng, n, k), normal(rng, m, k)
    name = f"ferrule_gemm{kind.name}{'_f32' if out is np.float32 else ''}"
    check_product(weights, x, product(gpu, name, weights, x, n, out, splits=int(rng.choice([1, 2, 4, 8]))))


@pytest.mark.parametrize("rows", [8, 16, 32])
@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("out", [np.uint16, np.float32])
def test_skinny_gemm(gpu, rng, rows, kind, out):
    m, n, k = int(rng.integers(1, rows + 1)), int(rng.integers(1, 60)), some_k(rng, kind, 1500)
    weights, x = kind(rng, n, k), normal(rng, m, k)
    name = f"ferrule_skinny_gemm{kind.name}{'_f32' if out is np.float32 else ''}_m{rows}"
    check_product(weights, x, product(gpu, name, weights, x, n, out))


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_products_bits_do_not_depend_on_the_kernel(gpu, rng, kind):
    """Alone or in company, in tiles or not, in codes or as bf16: each element is one sum in one order."""
    n, k = int(rng.integers(1, 60)), some_k(rng, kind, 1500)
    weights, x = kind(rng, n, k), normal(rng, 32, k)
    whole = product(gpu, f"ferrule_skinny_gemm{kind.name}_f32_m32", weights, x, n, np.float32)
    for rows in (8, 16):
        some = product(gpu, f"ferrule_skinny_gemm{kind.name}_f32_m{rows}", weights, x[5 : 5 + rows - 3], n, np.float32)
        assert (some == whole[5 : 5 + rows - 3]).all()
    for splits in (1, 2):
        tiles = product(gpu, f"ferrule_gemm{kind.name}_f32", weights, x, n, np.float32, splits)
        assert (tiles == whole).all()
    plain = Bf16Weights(rng, n, k)
    plain.bits = weights.bits
    assert (product(gpu, "ferrule_gemm_f32", plain, x, n, np.float32, 1) == whole).all()


@pytest.mark.parametrize("kind", [Int4Weights, Int8Weights])
def test_codes_become_the_nearest_bf16(gpu, rng, kind):
    weights = kind(rng, 20, 256)
    for at in range(0, 256, 32):
        one_hot = bf16(np.eye(32, 256, at))
        found = product(gpu, f"ferrule_skinny_gemm{kind.name}_f32_m32", weights, one_hot, 20, np.float32)
        assert (found.T == floats(weights.bits[:, at : at + 32])).all()


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


def edited(logits, allowed, edits, penalties):
    """One row, in float32 as the kernel."""
    x, (repetition, frequency, presence) = np.where(allowed, logits, np.float32(-np.inf)), penalties
    for token, bias, count, flags in edits:
        y = np.float32(-np.inf) if flags & 1 else x[token] + np.float32(bias)
        if flags & 2:
            y = y / repetition if y > 0 else y * repetition
            y = y - frequency * np.float32(count)
            y = y - (presence if count else np.float32(0))
        x[token] = y
    return x


@pytest.mark.parametrize("masked", [False, True])
def test_edit_logits(gpu, rng, masked):
    vocab, rows = int(rng.integers(40, 3000)), 3
    logits = rng.standard_normal((rows, vocab)).astype(np.float32) * 4
    allowed = rng.random((rows, vocab)) < (0.5 if masked else 2)
    bits = np.packbits(np.pad(allowed, [(0, 0), (0, -vocab % 32)]), axis=1, bitorder="little")
    penalties = rng.random((rows, 3)).astype(np.float32) + np.float32(0.5)
    edits = [
        [(t, rng.standard_normal(), int(rng.integers(0, 4)), int(rng.integers(0, 4))) for t in tokens]
        for tokens in (rng.permutation(vocab)[:n] for n in (0, 5, 37))
    ]
    table = np.array([e for row in edits for e in row], [("t", i32), ("b", np.float32), ("c", i32), ("f", i32)])
    starts = np.cumsum([0, *map(len, edits)]).astype(i32)
    on_gpu = gpu.upload(logits)
    args = gpu.upload(bits) if masked else None, gpu.upload(starts), gpu.upload(table), gpu.upload(penalties)
    gpu.launch("ferrule_edit_logits", (-(-vocab // 1024), rows), 256, on_gpu, *args, i32(vocab))
    expected = [edited(*row) for row in zip(logits, allowed, edits, penalties, strict=True)]
    assert (gpu.download(on_gpu, logits.shape, np.float32) == np.array(expected)).all()


def philox(seed, position):
    counter, key = [position & 0xFFFFFFFF, position >> 32, 0, 0], [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        low = 0xFFFFFFFF
        counter = [b >> 32 ^ counter[1] ^ key[0], b & low, a >> 32 ^ counter[3] ^ key[1], a & low]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return counter[0] | counter[1] << 32


def may_be_drawn(logits, temperature, top_k, top_p, min_p):
    """Tokens by id with their probabilities, in float64; None where rounding decides."""
    order = np.argsort(-logits, kind="stable")
    order = order[np.isfinite(logits[order])]
    weights = np.exp((logits[order].astype(np.float64) - logits[order[0]]) / temperature)
    if top_k:
        order, weights = order[:top_k], weights[:top_k]
    if top_p < 1:
        sums = np.cumsum(weights) / weights.sum()
        if np.abs(sums - top_p).min() < 1e-5:
            return None
        count = int((sums < top_p).sum()) + 1
        order, weights = order[:count], weights[:count]
    if np.abs(weights - min_p).min() < 1e-5:
        return None
    order, weights = order[weights >= min_p], weights[weights >= min_p]
    by_id = np.argsort(order)
    return order[by_id], weights[by_id] / weights.sum()


def sampling_rows(rng, vocab):
    """Rows with many equals, and with masked tokens."""
    rows = [rng.standard_normal(vocab) * 3, rng.integers(-3, 3, vocab), np.full(vocab, -np.inf)]
    rows[2][rng.permutation(vocab)[:3]] = [1.5, 1.5, np.inf]
    return np.array(rows, np.float32)


def sample_on(gpu, logits, requests):
    words = np.zeros((len(requests), 8), np.uint32)
    for row, (temperature, top_k, top_p, min_p, seed, position) in zip(words, requests, strict=True):
        row[:3] = np.array([temperature, top_p, min_p], np.float32).view(np.uint32)
        row[3:] = [top_k, seed & 0xFFFFFFFF, seed >> 32, position & 0xFFFFFFFF, position >> 32]
    out = gpu.allocate(4 * len(requests))
    args = gpu.upload(logits), gpu.upload(words), out, i32(logits.shape[1])
    gpu.launch("ferrule_sample", (len(requests),), 1024, *args)
    return gpu.download(out, len(requests), i32)


@pytest.mark.parametrize("top_k", [0, 1, 4])
@pytest.mark.parametrize("top_p", [1.0, 0.6])
@pytest.mark.parametrize("min_p", [0.0, 0.07])
def test_sample(gpu, rng, top_k, top_p, min_p):
    logits = sampling_rows(rng, int(rng.integers(5, 2600)))
    requests = [
        (float(rng.random() + 0.3), top_k, top_p, min_p, int(rng.integers(2**63)), int(rng.integers(2**40)))
        for _ in logits
    ]
    for row, request, token in zip(logits, requests, sample_on(gpu, logits, requests), strict=True):
        if (kept := may_be_drawn(row, *request[:4])) is None:
            continue
        ids, shares = kept
        share = (philox(*request[4:]) >> 11) / 2**53
        sums = np.cumsum(shares)
        if np.abs(sums - share).min() > 1e-5:
            assert token == ids[(sums <= share).sum()]


def test_sampling_at_temperature_0_takes_the_first_of_the_best(gpu, rng):
    logits = sampling_rows(rng, 300)
    nothing = np.full((1, 300), np.nan, np.float32)
    finite = np.where(np.isfinite(logits), logits, -np.inf)
    expected = [*finite.argmax(1), -1]
    assert (sample_on(gpu, np.concatenate([logits, nothing]), [(0.0, 0, 1.0, 0.0, 1, 2)] * 4) == expected).all()


def test_copy_blocks(gpu, rng):
    cache = rng.integers(0, 60000, (3, 6, 256)).astype(np.uint16)
    address, pairs = gpu.upload(cache), np.array([[5, 0], [2, 3]], i32)
    gpu.launch("ferrule_copy_blocks", (2, 3), 256, address, gpu.upload(pairs), np.int64(6), np.int64(256))
    cache[:, [0, 3]] = cache[:, [5, 2]]
    assert (gpu.download(address, cache.shape, np.uint16) == cache).all()


def test_what_lies_outside_is_reported(library):
    library.reset()
    if not library.checked:
        pytest.skip("only the checked build sees it")
    table, out = library.upload(np.zeros(64, np.uint16)), library.allocate(4 * 63)
    with pytest.raises(KernelFailure, match=r"OUT OF BOUNDS write of 16 bytes, 4 behind .* block \(0,0,0\) thread 7 "):
        library.launch("ferrule_embed", (1,), 128, library.upload(np.zeros(1, i32)), table, out, 1.0, i32(64))
