"""Measures one peer in a fresh process: python -m harness.worker PEER MODEL WORK THREADS."""

import json
import sys
from pathlib import Path

from harness.engines import PEERS
from harness.work import WORKS


def main() -> None:
    peer, model, work, threads = sys.argv[1:]
    value = PEERS[peer].load().measure(Path(model), WORKS[work], int(threads))
    print(json.dumps({"value": value}))


if __name__ == "__main__":
    main()
