"""Makes blocks.json: random blocks of every GGUF type, and the numbers that the gguf package decodes them to.

    pip install gguf numpy
    python tests/golden/quant/generate.py

Bytes and little-endian float32 numbers are in hexadecimal.
"""

import json
from pathlib import Path

import gguf
import numpy as np

HERE = Path(__file__).parent
# Offsets of the float16 scales in a block.
SCALES = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
}
# Ordinary, negative, zero, the smallest subnormal, and the largest: one block each.
EXTREMES = np.array([0.0123, -1.5, 0.0, 6e-8, 65504.0], dtype="<f2")
# The same of E8M0.
EXPONENTS = np.array([125, 0, 1, 2, 255], dtype=np.uint8)
PLAIN = {
    "F32": np.array([0.0, -0.0, 1.5, 1e-40, -3.4e38], "<f4"),
    "F16": np.array([0.0, -0.0, 1.5, 6e-8, 65504.0], "<f2"),
    "BF16": np.array([0x0000, 0x8000, 0x3FC0, 0x0001, 0x7F7F], "<u2"),
}


def main() -> None:
    rng = np.random.default_rng(7)
    cases = {}
    for name, offsets in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        blocks = rng.integers(0, 256, (len(EXTREMES), block_bytes), dtype=np.uint8)
        for i, offset in enumerate(offsets):
            blocks[:, offset : offset + 2] = np.roll(EXTREMES, i).view(np.uint8).reshape(-1, 2)
        if name == "MXFP4":
            blocks[:, 0] = EXPONENTS
        numbers = gguf.quants.dequantize(blocks, kind).astype("<f4")
        cases[name] = dict(bytes=blocks.tobytes().hex(), numbers=numbers.tobytes().hex())
    for name, values in PLAIN.items():
        kind = gguf.GGMLQuantizationType[name]
        numbers = gguf.quants.dequantize(values.view(np.uint8) if name == "BF16" else values, kind).astype("<f4")
        cases[name] = dict(bytes=values.tobytes().hex(), numbers=numbers.tobytes().hex())
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
    (HERE / "blocks.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
