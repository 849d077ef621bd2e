"""What runs amount to: rates, percentiles, goodput, as JSON and as a table."""

import math
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from load.client import Answer
from load.drive import Run

PERCENTILES = (50, 90, 99)
LATENCIES = ("ttft", "tpot", "itl", "e2e")


@dataclass(frozen=True)
class Slo:
    """What an answer must keep to be worth something, in seconds."""

    ttft: float
    tpot: float

    def is_met(self, answer: Answer) -> bool:
        return answer.is_complete and answer.ttft <= self.ttft and (answer.tpot or 0.0) <= self.tpot


def summary(runs: list[Run], slo: Slo, server_cpu: float) -> dict[str, Any]:
    """Rates are medians over the runs; latencies are of all their answers together."""
    answers = [answer for run in runs for answer in run.answers]
    complete = [answer for answer in answers if answer.is_complete]
    wall = sum(run.wall for run in runs)
    return {
        "requests": len(answers),
        "complete": len(complete),
        "hung_up": sum(answer.hung_up for answer in answers),
        "errors": dict(Counter(_kind(answer) for answer in answers if answer.error)),
        "prompt_tokens": sum(answer.num_prompt_tokens for answer in complete),
        "answer_tokens": sum(answer.num_tokens for answer in complete),
        "wall_s": wall,
        "requests_per_s": _rate(runs, lambda answer: 1),
        "answer_tokens_per_s": _rate(runs, lambda answer: answer.num_tokens),
        "total_tokens_per_s": statistics.median(map(_tokens_per_s, runs)),
        "goodput_per_s": _rate(runs, slo.is_met),
        "rounds": [_tokens_per_s(run) for run in runs],
        "tokens_per_piece": _ratio(sum(a.num_tokens for a in complete), sum(len(a.pieces) for a in complete)),
        "ms": {name: _percentiles(values) for name, values in _latencies(complete).items()},
        "client_cpu": _ratio(sum(run.client_cpu for run in runs), wall),
        "server_cpu": _ratio(server_cpu, wall),
        **_beside([answer for run in runs for answer in run.beside]),
    }


def _beside(answers: list[Answer]) -> dict[str, Any]:
    """The long prompts that were computed meanwhile, and the median time to their first token."""
    if not answers:
        return {}
    return {"beside": len(answers), "beside_ttft_ms": statistics.median(answer.ttft for answer in answers) * 1e3}


def _rate(runs: list[Run], worth: Callable[[Answer], int]) -> float:
    """Of complete answers, per second: the median over the runs."""
    sums = [sum(worth(answer) for answer in run.answers if answer.is_complete) for run in runs]
    return statistics.median(_ratio(total, run.wall) for total, run in zip(sums, runs, strict=True))


def _tokens_per_s(run: Run) -> float:
    """Prompts included."""
    return _rate([run], lambda answer: answer.num_tokens + answer.num_prompt_tokens)


def _ratio(value: float, by: float) -> float:
    return value / by if by else 0.0


def _kind(answer: Answer) -> str:
    """Errors are counted by status; one in the middle of a stream has status 200."""
    return str(answer.status) if answer.status not in (0, 200) else (answer.error or "")[:80]


def _latencies(answers: list[Answer]) -> dict[str, list[float]]:
    return {
        "ttft": [answer.ttft for answer in answers],
        "tpot": [answer.tpot for answer in answers if answer.tpot is not None],
        "itl": [gap for answer in answers for gap in answer.gaps],
        "e2e": [answer.ended - answer.begun for answer in answers],
    }


def _percentiles(seconds: list[float]) -> dict[str, float]:
    return {f"p{p}": percentile(seconds, p) * 1e3 for p in PERCENTILES} if seconds else {}


def percentile(values: list[float], p: float) -> float:
    """The smallest value that `p` percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * p / 100) - 1)]


ROWS: list[tuple[str, str]] = [
    ("requests", "requests"),
    ("complete", "answered"),
    ("prompt_tokens", "prompt tokens"),
    ("answer_tokens", "answer tokens"),
    ("wall_s", "seconds"),
    ("requests_per_s", "requests/s"),
    ("answer_tokens_per_s", "answer tokens/s"),
    ("total_tokens_per_s", "tokens/s with prompts"),
    ("goodput_per_s", "goodput, requests/s"),
    ("tokens_per_piece", "tokens per frame"),
    ("client_cpu", "client, cores"),
    ("server_cpu", "server, cores"),
    ("beside", "long prompts beside"),
    ("beside_ttft_ms", "their ttft, ms"),
]


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown; one column per server."""
    lines = [_line(["", *results]), _line(["---", *("---:" for _ in results)])]
    for key, title in ROWS:
        lines.append(_line([title, *(_number(result.get(key)) for result in results.values())]))
    for name in LATENCIES:
        for p in PERCENTILES:
            cells = [result.get("ms", {}).get(name, {}).get(f"p{p}") for result in results.values()]
            lines.append(_line([f"{name} p{p}, ms", *map(_number, cells)]))
    errors = [_errors(result.get("errors", {})) for result in results.values()]
    if any(errors):
        lines.append(_line(["errors", *errors]))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _errors(errors: dict[str, int]) -> str:
    return ", ".join(f"{count} of {kind}" for kind, count in errors.items())


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
