"""More than the server can do, for minutes, with clients that leave: what must hold during and after that."""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import servers
from load.drive import Plan, Run, drive
from load.report import Slo, percentile, summary, table
from load.servers import Target
from load.workload import Lengths, Workload

CONNECTIONS = 200
SEQUENCES = 64
STEP_TOKENS = 512
"""The chunk budget: tokens that one step computes at most."""
SERVER = [
    *("--max-num-seqs", str(SEQUENCES), "--max-queue-len", str(CONNECTIONS - SEQUENCES)),
    *("--max-num-batched-tokens", str(STEP_TOKENS), "--kv-cache-memory", "1GB"),
]
RATE = 30.0
"""Arrivals per second, several times what two cores answer with the smallest models."""
FLAT = 1.05
"""Memory at the end may be this many times that of half time, when the whole KV cache has been touched."""


@dataclass(frozen=True)
class Impatience:
    """Which clients hang up, and after how many pieces of text."""

    share: float
    longest: int
    seed: int

    def __call__(self, number: int) -> int | None:
        rng = random.Random(self.seed + number)
        return rng.randint(1, self.longest) if rng.random() < self.share else None


class Watch:
    """Looks at the server every now and then, from a thread of its own."""

    def __init__(self, target: Target, every: float):
        self.samples: list[dict[str, Any]] = []
        self._target, self._every = target, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self.samples.append({**resident(self._target), "rss_bytes": self._target.rss_bytes()})


def resident(target: Target) -> dict[str, Any]:
    """What the server says about its model."""
    models = target.get("/models/resident")["models"]
    return dict(next(model for model in models if model["name"] == target.model))


def load(target: Target, lengths: Lengths, rate: float, duration: float, seed: int) -> tuple[Run, list[dict[str, Any]]]:
    """The load itself; a third of the clients hang up."""
    workload = Workload(target.model, lengths, seed, sampling={"temperature": 0.7})
    plan = Plan(None, rate, int(2 * rate * duration) + 100, duration, seed, Impatience(1 / 3, 60, seed))
    with Watch(target, duration / 60) as watch:
        run = drive(target.endpoint, workload.bodies(), plan)
    return run, watch.samples


def wait_idle(target: Target, seconds: float = 10.0) -> bool:
    """Whether nothing holds a block any more."""
    deadline = time.monotonic() + seconds
    keys = ("num_running", "num_waiting", "num_used_blocks", "num_users")
    while any(resident(target)[key] for key in keys):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wrong_errors(run: Run) -> list[str]:
    """Everything that went wrong but 429."""
    return [f"{answer.status}: {answer.error}" for answer in run.answers if answer.error and answer.status != 429]


def main(binary: Path, model: str, duration: float, seed: int, out: Path | None) -> int:
    with servers.ferrule(binary, model, SERVER) as target:
        step = _longest_step(target)
        before = target.cpu_seconds()
        run, samples = load(target, Lengths(), RATE, duration, seed)
        cpu = target.cpu_seconds() - before
        idle = wait_idle(target)
    result = summary([run], Slo(1.0, 0.1), cpu)
    gaps = [gap for answer in run.answers for gap in answer.gaps]
    half, end = (samples[int(len(samples) * share)]["rss_bytes"] for share in (0.5, 0.99))
    checks: dict[str, tuple[bool, str]] = {
        "no error but 429": (not (wrong := wrong_errors(run)), f"{wrong[:3]}" if wrong else "none"),
        "connections held at once": _most(samples, lambda s: s["num_running"] + s["num_waiting"], CONNECTIONS - 5),
        "above capacity": (429 in {answer.status for answer in run.answers}, "answered with 429"),
        "blocks free afterwards": (idle, "all"),
        "memory flat": (end <= half * FLAT, f"{half / 2**20:.0f} MiB at half time, {end / 2**20:.0f} MiB at the end"),
        "p99 between tokens within two full steps": (
            percentile(gaps, 99) <= 2 * step,
            f"{percentile(gaps, 99) * 1e3:.0f} ms; a step of {STEP_TOKENS} tokens takes {step * 1e3:.0f} ms",
        ),
    }
    print(table({target.name: result}) + "\n")
    for name, (holds, figure) in checks.items():
        print(f"{'ok  ' if holds else 'FAIL'}  {name}: {figure}")
    if out:
        out.write_text(json.dumps({"result": result, "checks": checks, "samples": samples}, indent=1) + "\n")
    return 0 if all(holds for holds, _ in checks.values()) else 1


def _longest_step(target: Target) -> float:
    """Seconds for a prompt that fills one step, alone: the best of three."""
    exact = Workload(target.model, Lengths(STEP_TOKENS, 1, 0.0, 0.0), seed=0, vocab=1024)
    run = drive(target.endpoint, exact.bodies(), Plan(1, None, 3, None, 0))
    return min(answer.ttft for answer in run.answers)


def _most(samples: list[dict[str, Any]], figure: Callable[[dict[str, Any]], int], least: int) -> tuple[bool, str]:
    most = max(figure(sample) for sample in samples)
    return most >= least, f"{most}"
