"""Alternating measurements: every engine once per round, so that all see the machine in the same states."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.engines import PEERS, ferrule
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
    min_read: float | None = None
    """Bytes per second that memory gives before and after a measurement that counts."""
    tries: int = 1
    """Measurements until one counts."""


@dataclass
class Results:
    machine: dict[str, Any]
    versions: dict[str, str]
    bandwidth: list[float] = field(default_factory=list)
    """Bytes per second that all threads read, before each group of rounds or around each measurement that counts."""
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
            if plan.min_read is None:
                results.bandwidth.append(_read(plan))
            for _ in range(plan.rounds):
                for engine in [OURS, *(peer for peer in plan.peers if PEERS[peer].reads(model))]:
                    _measure(plan, results, (model.name, work, engine), model)


def read_bandwidth(doctor: dict[str, Any]) -> float:
    return float(doctor["read_bandwidth_bytes_per_s"]["all_threads"])


def _read(plan: Plan) -> float:
    return read_bandwidth(ferrule.doctor(plan.binary))


def _measure(plan: Plan, results: Results, key: tuple[str, str, str], model: Path) -> None:
    """What failed once is not tried again."""
    if key in results.failures:
        return
    try:
        value = _value(plan, key, model) if plan.min_read is None else _steady_value(plan, results, key, model)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        results.failures[key] = str(error)
        _tell(key, f"failed: {error}")
    else:
        results.values.setdefault(key, []).append(value)
        _tell(key, f"{value:.1f} {WORKS[key[1]].unit}")


def _steady_value(plan: Plan, results: Results, key: tuple[str, str, str], model: Path) -> float:
    """Of the first measurement that has fast memory before and after."""
    assert plan.min_read is not None
    before = _read(plan)
    for _ in range(plan.tries):
        value, after = _value(plan, key, model), _read(plan)
        if min(before, after) >= plan.min_read:
            results.bandwidth += [before, after]
            return value
        _tell(key, f"does not count: memory gave {before / 1e9:.0f} GB/s before and {after / 1e9:.0f} after")
        before = after
    raise RuntimeError(f"memory gave less than {plan.min_read / 1e9:.0f} GB/s around each of {plan.tries} measurements")


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
