"""A Llama decoder in NumPy, written from the papers, to compare with.

Touvron et al. 2023 (Llama), Su et al. 2021 (rotary embeddings), Zhang and Sennrich 2019 (RMSNorm), Shazeer 2020
(SwiGLU), Ainslie et al. 2023 (grouped queries). It computes in float64, one whole sequence at a time, without a cache.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LlamaConfig:
    """The fields of config.json that matter, under their names there."""

    vocab_size: int = 96
    hidden_size: int = 64
    intermediate_size: int = 96
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_position_embeddings: int = 256
    tie_word_embeddings: bool = False

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def to_json(self) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "float32",
            **asdict(self),
        }


def random_weights(config: LlamaConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """Tensors under their Hugging Face names; a projection is (rows out, columns in)."""
    rng = np.random.default_rng(seed)
    hidden, inner = config.hidden_size, config.intermediate_size
    kv_dim = config.num_key_value_heads * config.head_dim

    def matrix(rows: int, cols: int) -> NDArray[np.float32]:
        return (rng.standard_normal((rows, cols)) / np.sqrt(cols)).astype(np.float32)

    def norm() -> NDArray[np.float32]:
        return rng.uniform(0.5, 1.5, hidden).astype(np.float32)

    weights = {"model.embed_tokens.weight": matrix(config.vocab_size, hidden), "model.norm.weight": norm()}
    if not config.tie_word_embeddings:
        weights["lm_head.weight"] = 4 * matrix(config.vocab_size, hidden)
    for layer in range(config.num_hidden_layers):
        weights |= {
            f"model.layers.{layer}.input_layernorm.weight": norm(),
            f"model.layers.{layer}.self_attn.q_proj.weight": matrix(hidden, hidden),
            f"model.layers.{layer}.self_attn.k_proj.weight": matrix(kv_dim, hidden),
            f"model.layers.{layer}.self_attn.v_proj.weight": matrix(kv_dim, hidden),
            f"model.layers.{layer}.self_attn.o_proj.weight": matrix(hidden, hidden),
            f"model.layers.{layer}.post_attention_layernorm.weight": norm(),
            f"model.layers.{layer}.mlp.gate_proj.weight": matrix(inner, hidden),
            f"model.layers.{layer}.mlp.up_proj.weight": matrix(inner, hidden),
            f"model.layers.{layer}.mlp.down_proj.weight": matrix(hidden, inner),
        }
    return weights


class LlamaDecoder:
    """The forward pass, top to bottom as the papers have it."""

    def __init__(self, config: LlamaConfig, weights: dict[str, NDArray[np.float32]]) -> None:
        self.config = config
        self.weights = {name: tensor.astype(np.float64) for name, tensor in weights.items()}

    def logits(self, tokens: list[int]) -> Array:
        """(num_tokens, vocab_size)"""
        x = self.weights["model.embed_tokens.weight"][tokens]
        for layer in range(self.config.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            x = x + self.attention(f"{prefix}.self_attn", self.rms_norm(f"{prefix}.input_layernorm", x))
            x = x + self.feed_forward(f"{prefix}.mlp", self.rms_norm(f"{prefix}.post_attention_layernorm", x))
        x = self.rms_norm("model.norm", x)
        head = "model.embed_tokens" if self.config.tie_word_embeddings else "lm_head"
        return self.linear(head, x)

    def logprobs(self, tokens: list[int]) -> Array:
        """(num_tokens, vocab_size), natural logarithm."""
        logits = self.logits(tokens)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    def linear(self, name: str, x: Array) -> Array:
        return x @ self.weights[f"{name}.weight"].T

    def rms_norm(self, name: str, x: Array) -> Array:
        scale = np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config.rms_norm_eps)
        return x / scale * self.weights[f"{name}.weight"]

    def attention(self, name: str, x: Array) -> Array:
        c, num_tokens = self.config, len(x)
        q = self.linear(f"{name}.q_proj", x).reshape(num_tokens, c.num_attention_heads, c.head_dim)
        k = self.linear(f"{name}.k_proj", x).reshape(num_tokens, c.num_key_value_heads, c.head_dim)
        v = self.linear(f"{name}.v_proj", x).reshape(num_tokens, c.num_key_value_heads, c.head_dim)
        group = c.num_attention_heads // c.num_key_value_heads
        q, k, v = self.rotate(q), np.repeat(self.rotate(k), group, axis=1), np.repeat(v, group, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(c.head_dim)
        scores[:, np.triu(np.ones((num_tokens, num_tokens), dtype=bool), k=1)] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, v)
        return self.linear(f"{name}.o_proj", mixed.reshape(num_tokens, -1))

    def rotate(self, x: Array) -> Array:
        """Rotates dimension i of each head with dimension i + head_dim / 2."""
        half = self.config.head_dim // 2
        frequencies = self.config.rope_theta ** (-np.arange(half) / half)
        angles = np.arange(len(x))[:, None, None] * frequencies
        cos, sin = np.cos(angles), np.sin(angles)
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def feed_forward(self, name: str, x: Array) -> Array:
        gate = self.linear(f"{name}.gate_proj", x)
        return self.linear(f"{name}.down_proj", gate / (1 + np.exp(-gate)) * self.linear(f"{name}.up_proj", x))
