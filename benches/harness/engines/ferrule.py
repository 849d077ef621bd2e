"""Ferrule through its command."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from harness.work import PROMPT, Work

FIELDS = {"prefill": "prefill_tokens_per_s", "decode": "decode_tokens_per_s"}


def measure(binary: Path, model: Path, work: Work, threads: int, timeout: float) -> float:
    if work.metric == "start":
        return _start_ms(binary, model, threads, timeout)
    result = json_of(bench_command(binary, model, work, threads), timeout)["results"][0]
    if work.metric == "memory":
        return float(result["peak_rss_bytes"]) / 2**20
    return float(result[FIELDS[work.metric]])


def bench_command(binary: Path, model: Path, work: Work, threads: int) -> list[str]:
    lengths = ["--prompt-len", str(work.prompt_len), "--gen-len", str(work.gen_len), "--batch", str(work.batch)]
    return [str(binary), "bench", str(model), *lengths, "--repetitions", "1", "--threads", str(threads), "--json"]


def doctor(binary: Path) -> dict[str, Any]:
    return json_of([str(binary), "doctor", "--json"], timeout=60)


def json_of(command: list[str], timeout: float) -> dict[str, Any]:
    """What a command prints with --json."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _start_ms(binary: Path, model: Path, threads: int, timeout: float) -> float:
    """From before the process exists to its first byte of text."""
    command = [str(binary), "run", str(model), PROMPT, "--raw", "--max-tokens", "1", "--temperature", "0"]
    begin = time.perf_counter()
    with subprocess.Popen(
        [*command, "--threads", str(threads)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        elapsed = time.perf_counter() - begin
        process.stdout.read()
        process.wait(timeout)
    if process.returncode != 0 or not first:
        raise RuntimeError(f"ferrule run ended with {process.returncode}")
    return elapsed * 1e3
