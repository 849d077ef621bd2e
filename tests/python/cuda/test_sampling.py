"""From logits to tokens."""

import numpy as np
import pytest
from reference import i32


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
    rows = gpu.upload(np.arange(len(requests), dtype=i32)[::-1])
    args = gpu.upload(logits[::-1]), rows, gpu.upload(words), out, i32(logits.shape[1])
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
