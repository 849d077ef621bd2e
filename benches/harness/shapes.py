"""The shapes of real models, as data."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A decoder of the Llama kind: grouped-query attention, gated feed-forward, tied embeddings."""

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position: int
    rope_theta: float
    norm_eps: float
    qk_norm: bool = False
    """RMS norm of every head before its rotation."""

    @property
    def q_dim(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.num_kv_heads * self.head_dim


SHAPES = {
    "smollm2-135m": Shape("llama", 576, 30, 9, 3, 64, 1536, 49_152, 8192, 1e5, 1e-5),
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 16, 8, 128, 3072, 151_936, 40_960, 1e6, 1e-6, qk_norm=True),
    "llama-3.2-1b": Shape("llama", 2048, 16, 32, 8, 64, 8192, 128_256, 131_072, 5e5, 1e-5),
    "qwen3-1.7b": Shape("qwen3", 2048, 28, 16, 8, 128, 6144, 151_936, 40_960, 1e6, 1e-6, qk_norm=True),
    "llama-3.2-3b": Shape("llama", 3072, 28, 24, 8, 128, 8192, 128_256, 131_072, 5e5, 1e-5),
    "tiny": Shape("llama", 256, 2, 4, 2, 64, 512, 1024, 512, 1e4, 1e-5),
}
