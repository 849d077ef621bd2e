"""Alternating measurements: every engine once per round, so that all see the machine in the same states."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.engines import ferrule
from harness.work import WORKS

OURS = "ferrule"
BENCHES = Path(__file__).parent.parent


@dataclass(frozen=True)
class Plan:
    binary: Path
    models: list[Path]
    works: list[str]
    """Names in `WORKS`."""
    peers: list[str]
    """Names in `PEERS`, all installed."""
    rounds: int
    threads: int
    timeout: float
    """Seconds for one measurement."""


@dataclass
class Results:
    machine: dict[str, Any]
    versions: dict[str, str]
    bandwidth: list[float] = field(default_factory=list)
    """Bytes per second that all threads read, at the start of each group of rounds."""
    values: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    """By model, work and engine, one value per round."""
    failures: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        def flat(key: tuple[str, str, str]) -> dict[str, str]:
            model, work, engine = key
            return {"model": model, "work": work, "engine": engine}

        return {
            "machine": self.machine,
            "versions": self.versions,
            "read_bandwidth_bytes_per_s": self.bandwidth,
            "results": [{**flat(key), "unit": WORKS[key[1]].unit, "values": v} for key, v in self.values.items()],
            "failures": [{**flat(key), "error": error} for key, error in self.failures.items()],
        }


def run(plan: Plan, results: Results) -> None:
    """Fills `results`, which holds what was measured so far if this is interrupted."""
    for model in plan.models:
        for work in plan.works:
            results.bandwidth.append(read_bandwidth(ferrule.doctor(plan.binary)))
            for _ in range(plan.rounds):
                for engine in [OURS, *plan.peers]:
                    _measure(plan, results, (model.name, work, engine), model)


def read_bandwidth(doctor: dict[str, Any]) -> float:
    return float(doctor["read_bandwidth_bytes_per_s"]["all_threads"])


def _measure(plan: Plan, results: Results, key: tuple[str, str, str], model: Path) -> None:
    """What failed once is not tried again."""
    if key in results.failures:
        return
    try:
        value = _value(plan, key, model)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        results.failures[key] = str(error)
        _tell(key, f"failed: {error}")
    else:
        results.values.setdefault(key, []).append(value)
        _tell(key, f"{value:.1f} {WORKS[key[1]].unit}")


def _tell(key: tuple[str, str, str], what: str) -> None:
    model, work, engine = key
    print(f"{model}: {WORKS[work].title}: {engine}: {what}", file=sys.stderr)


def _value(plan: Plan, key: tuple[str, str, str], model: Path) -> float:
    _, work, engine = key
    if engine == OURS:
        return ferrule.measure(plan.binary, model, WORKS[work], plan.threads, plan.timeout)
    return _measure_peer(engine, model, work, plan)


def _measure_peer(peer: str, model: Path, work: str, plan: Plan) -> float:
    command = [sys.executable, "-m", "harness.worker", peer, str(model), work, str(plan.threads)]
    environment = {**os.environ, "PYTHONPATH": str(BENCHES)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=plan.timeout, check=False, env=environment)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise RuntimeError(lines[-1] if lines else f"ended with {done.returncode}")
    # Libraries may print before.
    return float(json.loads(done.stdout.strip().splitlines()[-1])["value"])
