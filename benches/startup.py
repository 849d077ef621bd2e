"""From process start to first token, and peak memory, of `ferrule run` on a short prompt.

    .venv/bin/python benches/startup.py [--model smollm2] [--repetitions 11]

The first run warms the page cache and is not counted. Memory is the peak resident set that the kernel
reports for the process.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

BINARY = Path(__file__).parent.parent / "target" / "release" / "ferrule"


def one_run(model: str, max_tokens: int) -> tuple[float, float]:
    """Milliseconds to the first byte of text, and peak resident MiB."""
    command = [
        str(BINARY),
        "run",
        model,
        "The capital of France is",
        "--max-tokens",
        str(max_tokens),
        "--temperature",
        "0",
    ]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    first = process.stdout.read(1)
    first_ms = (time.perf_counter() - begin) * 1e3
    process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or not first:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return first_ms, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--repetitions", type=int, default=11)
    parser.add_argument("--max-tokens", type=int, default=64)
    args = parser.parse_args()
    one_run(args.model, 1)
    runs = [one_run(args.model, args.max_tokens) for _ in range(args.repetitions)]
    times = [ms for ms, _ in runs]
    result = {
        "model": args.model,
        "repetitions": args.repetitions,
        "first_token_ms": {"median": round(statistics.median(times), 1), "max": round(max(times), 1)},
        "peak_rss_mib": round(max(mib for _, mib in runs), 1),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
