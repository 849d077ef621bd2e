"""What is asked: lengths, prompts, and when requests come. Everything follows from a seed."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

LONGEST = 1024
"""Lengths are cut here, as benchmarks on ShareGPT do."""

WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
    "car",
    "city",
]
"""Frequent English nouns: one token each in the vocabularies of most models."""


@dataclass(frozen=True)
class Lengths:
    """Log-normal lengths, or equal ones. The default means are those of ShareGPT's conversations as the paper on
    PagedAttention gives them (Kwon et al. 2023, section 6.1: 161 tokens of prompt, 338 of answer); the spreads are
    ours.
    """

    prompt_mean: int = 161
    answer_mean: int = 338
    prompt_sigma: float = 1.1
    answer_sigma: float = 0.8

    def draw(self, rng: random.Random) -> tuple[int, int]:
        """Tokens of a prompt and of its answer."""
        prompt = _log_normal(rng, self.prompt_mean, self.prompt_sigma)
        return prompt, _log_normal(rng, self.answer_mean, self.answer_sigma)


def _log_normal(rng: random.Random, mean: int, sigma: float) -> int:
    if sigma == 0:
        return mean
    length = rng.lognormvariate(math.log(mean) - sigma**2 / 2, sigma)
    return max(1, min(LONGEST, round(length)))


@dataclass(frozen=True)
class Workload:
    model: str
    lengths: Lengths
    seed: int
    vocab: int | None = None
    """Prompts are token ids below this, and their lengths exact. None: words."""
    sampling: dict[str, float] = field(default_factory=lambda: {"temperature": 0.0})

    def bodies(self) -> Iterator[bytes]:
        """Requests without end."""
        rng = random.Random(self.seed)
        while True:
            prompt_len, answer_len = self.lengths.draw(rng)
            body = {
                "model": self.model,
                "prompt": self._prompt(rng, prompt_len),
                "max_tokens": answer_len,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
                **self.sampling,
            }
            yield json.dumps(body).encode()

    def _prompt(self, rng: random.Random, length: int) -> str | list[int]:
        if self.vocab is None:
            return " ".join(rng.choices(WORDS, k=length))
        # Control tokens mostly come first.
        return [rng.randrange(self.vocab // 16, self.vocab) for _ in range(length)]


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Arrival times in seconds, `rate` per second on average."""
    rng = random.Random(seed)
    time = 0.0
    while True:
        time += rng.expovariate(rate)
        yield time
