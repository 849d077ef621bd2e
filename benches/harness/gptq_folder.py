"""Writes a random-weight model as a GPTQ folder: four bits in groups of 128, embeddings and norms in bf16."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness import hf_folder
from harness.shapes import Shape
from harness.tensors import Tensor, tensors

GROUP = 128
MIDDLE = 8
TYPES = {"uint16": "BF16", "float16": "F16", "int32": "I32"}

Array = NDArray[np.generic]


def write(shape: Shape, folder: Path, act_order: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": act_order, "sym": True}
    config = hf_folder.config(shape) | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    parts = [part for tensor in tensors(shape) for part in _parts(tensor, act_order)]
    header, end = {}, 0
    for name, array in parts:
        offsets = [end, end + array.nbytes]
        header[name] = {"dtype": TYPES[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
        end += array.nbytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in parts:
            array.tofile(file)


def _parts(tensor: Tensor, act_order: bool) -> Iterator[tuple[str, Array]]:
    """Random codes around the middle, spread as the tensor's numbers are."""
    if "_proj." not in tensor.hf_name:
        yield tensor.hf_name, tensor.bits()
        return
    rows, cols = tensor.shape
    stem = tensor.hf_name.removesuffix(".weight")
    random = np.random.default_rng(zlib.crc32(stem.encode()))
    # The spread of equally likely codes is 4.6.
    scales = np.full((cols // GROUP, rows), tensor.std / 4.6, dtype=np.float16)
    zeros = np.full((cols // GROUP, rows // 8), 0x11111111 * (MIDDLE - 1), dtype=np.int32)
    groups = np.arange(cols, dtype=np.int32) // GROUP
    yield f"{stem}.qweight", random.integers(-(2**31), 2**31, (cols // 8, rows), dtype=np.int32)
    yield f"{stem}.qzeros", zeros
    yield f"{stem}.scales", scales
    yield f"{stem}.g_idx", _shuffled(stem, groups) if act_order else groups


def _shuffled(stem: str, groups: NDArray[np.int32]) -> NDArray[np.int32]:
    """One order for the matrices of one input."""
    layer, matrix = stem.split(".")[2], stem.rpartition(".")[2]
    reader = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gate_up", "up_proj": "gate_up"}
    seed = zlib.crc32(f"{layer} {reader.get(matrix, matrix)}".encode())
    return np.random.default_rng(seed).permutation(groups)
