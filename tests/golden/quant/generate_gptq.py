"""Makes gptq.json: small matrices rounded by GPTQ as its paper writes it, in float64.

    pip install numpy
    python tests/golden/quant/generate_gptq.py

Frantar et al. 2022, algorithm 1, with blocks of one column: the upper Cholesky factor of the inverse Hessian, columns in
the order of the Hessian's diagonal, damping of 1 %. Scales are those of rounding to the nearest. Numbers are in
hexadecimal: little-endian float32, and a byte for each code.
"""

import json
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
GROUP = 32


def main() -> None:
    cases = [case(seed, rows, cols, tokens) for seed, rows, cols, tokens in [(1, 5, 64, 80), (2, 3, 160, 60)]]
    (HERE / "gptq.json").write_text(json.dumps(cases) + "\n")


def case(seed: int, rows: int, cols: int, tokens: int) -> dict[str, object]:
    """Inputs whose columns are correlated and of different sizes."""
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((tokens, cols)) @ rng.standard_normal((cols, cols)) / np.sqrt(cols)
    x = (mixed * rng.uniform(0.2, 3, cols)).astype(np.float32)
    w = rng.standard_normal((rows, cols)).astype(np.float32)
    scales = (2 * np.abs(w.reshape(rows, -1, GROUP)).max(-1) / 15).astype(np.float16)
    codes = gptq(w.astype(np.float64), x.astype(np.float64), np.repeat(scales.astype(np.float64), GROUP, axis=1))
    return {
        "cols": cols,
        "x": x.astype("<f4").tobytes().hex(),
        "w": w.astype("<f4").tobytes().hex(),
        "codes": codes.astype(np.uint8).tobytes().hex(),
    }


def gptq(w: np.ndarray, x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    hessian = x.T @ x / len(x)
    order = np.argsort(-np.diag(hessian), kind="stable")
    w, scale, hessian = w[:, order].copy(), scale[:, order], hessian[np.ix_(order, order)]
    hessian += 0.01 * np.diag(hessian).mean() * np.eye(len(hessian))
    inverse = np.linalg.cholesky(np.linalg.inv(hessian)).T
    codes = np.zeros(w.shape, dtype=int)
    for k in range(w.shape[1]):
        codes[:, k] = np.clip(np.rint(w[:, k] / scale[:, k]) + 8, 0, 15)
        error = (w[:, k] - scale[:, k] * (codes[:, k] - 8)) / inverse[k, k]
        w[:, k:] -= np.outer(error, inverse[k, k:])
    back = np.empty_like(codes)
    back[:, order] = codes
    return back


if __name__ == "__main__":
    main()
