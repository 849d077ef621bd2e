"""Random weights: which tensors a shape has, under their names in both formats, and their values."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.shapes import Shape

Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]

EMBEDDING_STD = 0.02


@dataclass(frozen=True)
class Tensor:
    hf_name: str
    gguf_name: str
    shape: tuple[int, ...]
    """(rows, cols) of a matrix, (length,) of a norm's weight."""
    std: float
    """Of a matrix's values around 0, of a norm's weights around 1."""
    rotated_heads: int = 0
    """Heads whose rows llama.cpp keeps in the order of interleaved rotation; 0: none."""

    def num_bytes(self) -> int:
        return int(np.prod(self.shape)) * 2

    def values(self) -> Floats:
        """The same for the same name and shape, rounded to what bf16 holds."""
        return widen(self.bits())

    def bits(self) -> Bits:
        """The values as bf16."""
        random = np.random.default_rng(zlib.crc32(self.hf_name.encode()))
        values = random.standard_normal(self.shape, dtype=np.float32) * np.float32(self.std)
        return to_bf16(values + 1 if len(self.shape) == 1 else values)


def to_bf16(values: Floats) -> Bits:
    """Rounds to nearest, ties to even. Values must be finite."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def widen(bits: Bits) -> Floats:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def interleave_heads(rows: NDArray[np.generic], num_heads: int) -> NDArray[np.generic]:
    """From halves that rotate together (Hugging Face) to neighbours that do (llama.cpp)."""
    halves = rows.reshape(num_heads, 2, -1, rows.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def tensors(shape: Shape) -> Iterator[Tensor]:
    hidden = shape.hidden_size
    yield Tensor("model.embed_tokens.weight", "token_embd.weight", (shape.vocab_size, hidden), EMBEDDING_STD)
    for layer in range(shape.num_layers):
        yield from _layer(shape, f"model.layers.{layer}", f"blk.{layer}")
    yield _norm("model.norm.weight", "output_norm.weight", hidden)


def _layer(shape: Shape, hf: str, gguf: str) -> Iterator[Tensor]:
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    rotated = shape.model_type == "llama"
    queries, keys = (shape.num_heads, shape.num_kv_heads) if rotated else (0, 0)
    yield _norm(f"{hf}.input_layernorm.weight", f"{gguf}.attn_norm.weight", hidden)
    yield _matrix(f"{hf}.self_attn.q_proj.weight", f"{gguf}.attn_q.weight", shape.q_dim, hidden, queries)
    yield _matrix(f"{hf}.self_attn.k_proj.weight", f"{gguf}.attn_k.weight", shape.kv_dim, hidden, keys)
    yield _matrix(f"{hf}.self_attn.v_proj.weight", f"{gguf}.attn_v.weight", shape.kv_dim, hidden)
    yield _matrix(f"{hf}.self_attn.o_proj.weight", f"{gguf}.attn_output.weight", hidden, shape.q_dim)
    if shape.qk_norm:
        yield _norm(f"{hf}.self_attn.q_norm.weight", f"{gguf}.attn_q_norm.weight", shape.head_dim)
        yield _norm(f"{hf}.self_attn.k_norm.weight", f"{gguf}.attn_k_norm.weight", shape.head_dim)
    yield _norm(f"{hf}.post_attention_layernorm.weight", f"{gguf}.ffn_norm.weight", hidden)
    yield _matrix(f"{hf}.mlp.gate_proj.weight", f"{gguf}.ffn_gate.weight", ffn, hidden)
    yield _matrix(f"{hf}.mlp.up_proj.weight", f"{gguf}.ffn_up.weight", ffn, hidden)
    yield _matrix(f"{hf}.mlp.down_proj.weight", f"{gguf}.ffn_down.weight", hidden, ffn)


def _norm(hf_name: str, gguf_name: str, length: int) -> Tensor:
    return Tensor(hf_name, gguf_name, (length,), 0.1)


def _matrix(hf_name: str, gguf_name: str, rows: int, cols: int, rotated_heads: int = 0) -> Tensor:
    # Outputs are as large as inputs, whatever the width.
    return Tensor(hf_name, gguf_name, (rows, cols), float(cols**-0.5), rotated_heads)
