"""Quantized folders of a tiny model, read by code that knows only the formats' definitions."""

import json

import numpy as np

from checkpoints import write_safetensors, write_tokenizer
from numpy_decoder import LlamaConfig, random_weights

CONFIG = LlamaConfig()
TOKENS = np.random.default_rng(3).integers(3, CONFIG.vocab_size, 40).tolist()
# AutoAWQ's order of rows in a word.
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def write_source(folder):
    """The model that folders are made of."""
    write_safetensors(folder / "model.safetensors", random_weights(CONFIG, seed=11))
    (folder / "config.json").write_text(json.dumps(CONFIG.to_json()))
    write_tokenizer(folder / "tokenizer.json", CONFIG.vocab_size)


def read_safetensors(path):
    """Tensors, and the metadata."""
    types = {"F32": np.float32, "F16": np.float16, "I32": np.int32, "I64": np.int64, "I8": np.int8}
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        numbers = np.frombuffer(data[start + first : start + end], types[entry["dtype"]])
        tensors[name] = numbers.reshape(entry["shape"])
    return tensors, metadata


def unpack(words, bits):
    """The codes of 32-bit words, lowest first, in a last axis that is as much longer."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = words.view(np.uint32)[..., None] >> shifts & np.uint32(2**bits - 1)
    return codes.reshape(*words.shape[:-1], -1).astype(np.int64)


def unpack_awq(words):
    codes = unpack(words, 4)
    return codes.reshape(*codes.shape[:-1], -1, 8)[..., np.argsort(AWQ_ORDER)].reshape(codes.shape)


def weight(tensors, stem, method, bits):
    """(rows, cols) in float32."""
    part = {name.removeprefix(f"{stem}."): tensor for name, tensor in tensors.items() if name.startswith(f"{stem}.")}
    if method == "gptq":
        codes, zeros = unpack(np.ascontiguousarray(part["qweight"].T), bits), unpack(part["qzeros"], bits).T + 1
        scales = part["scales"].T
        assert (part["g_idx"] == np.arange(codes.shape[1]) // (codes.shape[1] // scales.shape[1])).all()
    elif method == "awq":
        codes, zeros, scales = unpack_awq(part["qweight"]).T, unpack_awq(part["qzeros"]).T, part["scales"].T
    elif "weight_packed" in part:
        codes, scales = unpack(part["weight_packed"], bits), part["weight_scale"]
        assert part["weight_shape"].tolist() == list(codes.shape)
        zeros = np.full(scales.shape, 2 ** (bits - 1))
    else:
        codes, scales = part["weight"].astype(np.int64), part["weight_scale"]
        zeros = np.zeros(scales.shape, int)
    group = codes.shape[1] // scales.shape[1]
    return np.repeat(scales.astype(np.float32), group, 1) * (codes - np.repeat(zeros, group, 1))


def dequantized(folder):
    """Every tensor under its name in a folder that is not quantized."""
    tensors, _ = read_safetensors(folder / "model.safetensors")
    quantization = json.loads((folder / "config.json").read_text())["quantization_config"]
    bits = quantization.get("bits", 8)
    weights = {}
    for name in random_weights(CONFIG, seed=11):
        stem = name.removesuffix(".weight")
        is_plain = name in tensors and tensors[name].dtype != np.int8
        weights[name] = tensors[name] if is_plain else weight(tensors, stem, quantization["quant_method"], bits)
    return weights
