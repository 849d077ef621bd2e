"""What is measured: the rows of the comparison, as data."""

from dataclasses import dataclass
from typing import Literal

Metric = Literal["prefill", "decode", "start", "memory"]

UNITS: dict[Metric, str] = {"prefill": "tokens/s", "decode": "tokens/s", "start": "ms", "memory": "MiB"}

PROMPT = "The capital of France is"
"""Of the work that is measured from start to first token."""


@dataclass(frozen=True)
class Work:
    """Equal lengths for every engine; temperature 0, end-of-text ignored, no prefix cache."""

    title: str
    metric: Metric
    prompt_len: int
    gen_len: int
    batch: int = 1
    is_long: bool = False
    """Takes minutes: only done where it is named."""

    @property
    def unit(self) -> str:
        return UNITS[self.metric]

    @property
    def more_is_better(self) -> bool:
        return self.metric in ("prefill", "decode")

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better ours is."""
        return ours / theirs if self.more_is_better else theirs / ours


WORKS = {
    "prefill": Work("prefill 512", "prefill", prompt_len=512, gen_len=1),
    "decode": Work("decode 128", "decode", prompt_len=1, gen_len=128),
    "batch": Work("16 sequences, prompt 128, decode 128", "decode", prompt_len=128, gen_len=128, batch=16),
    "context": Work("decode 64 at 4,096 tokens of context", "decode", prompt_len=4096, gen_len=64),
    "long": Work("decode 64 at 16,384 tokens of context", "decode", prompt_len=16_384, gen_len=64, is_long=True),
    "start": Work("start to first token", "start", prompt_len=5, gen_len=1),
    "memory": Work("peak memory, prompt 512, decode 128", "memory", prompt_len=512, gen_len=128),
}


def prompts(work: Work, vocab_size: int) -> list[list[int]]:
    """Token ids without meaning, the same for the same work: one list per sequence."""
    step = 2_654_435_761
    ids = [(i + 1) * step % vocab_size for i in range(work.batch * work.prompt_len)]
    return [ids[i * work.prompt_len : (i + 1) * work.prompt_len] for i in range(work.batch)]
