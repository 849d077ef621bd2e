"""Attention in float64, and batches for its kernels."""

import numpy as np
from emulator import DYNAMIC_SHARED, floats
from kv import Bf16Kv
from reference import assert_close, i32, normal


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
    """Sequences in a paged cache. What no query may see is NaN, and blocks that none sees have wild numbers.

    Of a sequence's queries the first `num_prompt` are its prompt's; None: all are.
    """

    def __init__(
        self,
        gpu,
        rng,
        num_queries,
        contexts,
        heads,
        kv_heads,
        head_dim,
        window=0,
        softcap=0.0,
        kv_type=Bf16Kv,
        num_prompt=None,
    ):
        self.kv_type, self.gpu, self.contexts, self.starts = (
            kv_type,
            gpu,
            contexts,
            np.cumsum([0, *num_queries]).astype(i32),
        )
        self.shape, self.window, self.softcap = (heads, kv_heads, head_dim), window, softcap
        self.scale = head_dim**-0.5
        self.qkv = normal(rng, self.starts[-1], heads + 2 * kv_heads, head_dim)
        self.kv = [rng.standard_normal((context, 2, kv_heads, head_dim)).astype(np.float32) for context in contexts]
        needed = [-(-context // 16) for context in contexts]
        ids = iter(rng.permutation(sum(needed) + 2))
        self.tables = np.full((len(contexts), max(needed) + 1), 0x7FFFFFF, i32)
        cache = kv_type(sum(needed) + 2, kv_heads, head_dim)
        for s, (context, queries) in enumerate(zip(contexts, num_queries, strict=True)):
            oldest = max(0, context - queries - window + 1) if window else 0
            for block in range(oldest // 16, needed[s]):
                self.tables[s, block] = next(ids)
            for at in range(oldest, context):
                self.kv[s][at] = cache.put(int(self.tables[s, at // 16]) * 16 + at % 16, self.kv[s][at])
        self.addresses = [gpu.upload(x) for x in (self.qkv, cache.bytes(), self.tables)]
        firsts, num_prompt = np.array(contexts) - num_queries, num_queries if num_prompt is None else num_prompt
        ends = firsts + num_prompt
        self.prompts = list(zip(range(len(contexts)), firsts, ends, strict=True))
        self.generated = [(s, at, at + 1) for s, end in enumerate(ends) for at in range(end, contexts[s])]
        self.out = gpu.upload(np.zeros((self.starts[-1], heads, head_dim), np.uint16))

    def sizes(self):
        heads, kv_heads, _ = self.shape
        widths = i32(heads), i32(kv_heads), i32(self.tables.shape[1]), i32(self.window)
        return *widths, self.scale, self.softcap

    def queries(self, runs):
        """The address of runs (sequence, first position, the one behind the last) for kernels, and of padding."""
        rows = [
            (self.starts[s + 1] - self.contexts[s] + first, end - first, end, s) if first < end else (0, 0, 0, 0)
            for s, first, end in [*runs, (0, 0, 0)]
        ]
        return self.gpu.upload(np.array(rows, i32))

    def prefill(self, runs=None):
        """Of all prompts, or of parts of them."""
        heads, _, head_dim = self.shape
        runs = self.prompts if runs is None else runs
        grid = (-(-max(end - first for _, first, end in runs) // 64), heads, len(runs) + 1)
        name = f"ferrule_prefill_attention{self.kv_type.name}_d{head_dim}"
        args = *self.addresses, self.queries(runs), self.out, *self.sizes()
        self.gpu.launch(name, grid, 128, *args, shared=DYNAMIC_SHARED[name])

    def decode(self, splits):
        heads, kv_heads, head_dim = self.shape
        num_runs, queries = len(self.generated) + 1, self.queries(self.generated)
        partial = [self.gpu.allocate(num_runs * heads * splits * n * 4) for n in (head_dim, 2)]
        grid = (splits, kv_heads * -(-heads // kv_heads // 8), num_runs)
        name = f"ferrule_decode_attention{self.kv_type.name}_d{head_dim}"
        self.gpu.launch(name, grid, 128, *self.addresses, queries, self.out, *partial, *self.sizes())
        sizes = i32(heads), i32(head_dim), i32(splits), i32(self.window)
        self.gpu.launch("ferrule_merge_splits", (heads, num_runs), 64, *partial, queries, self.out, *sizes)

    def attended(self):
        """Bits of (num_queries, heads, head_dim)."""
        heads, _, head_dim = self.shape
        return self.gpu.download(self.out, (self.starts[-1], heads, head_dim), np.uint16)

    def check(self):
        """Rows of the kernels that ran."""
        heads, _, _ = self.shape
        found = floats(self.attended())
        for s, context in enumerate(self.contexts):
            rows = slice(self.starts[s], self.starts[s + 1])
            positions = context - (rows.stop - rows.start) + np.arange(rows.stop - rows.start)
            k, v = self.kv[s].transpose(1, 0, 2, 3)
            q = floats(self.qkv)[rows, :heads]
            if len(q):
                assert_close(found[rows], attention(q, k, v, positions, self.scale, self.window, self.softcap), 0.015)
