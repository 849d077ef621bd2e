"""Ferrule against other engines on the same model files, in alternation: Ferrule, peer, Ferrule, peer, ...

    python benches/peers.py SmolLM2-135M-Instruct.Q4_0.gguf --works prefill decode --rounds 5 --out comparison

Every measurement is a fresh process; figures are medians over the rounds. All engines get the same threads and
lengths, temperature 0, no end-of-text and no prefix cache. Peers that are not installed are named and skipped
(pip install 'ferrule[peers]' for llama.cpp). vLLM reads folders of safetensors, the others GGUF files. `--out` writes
NAME.json, NAME.md and NAME.svg. Ctrl-C ends the run and keeps what was measured.
"""

import argparse
import json
import sys
from pathlib import Path

from harness import compare, table
from harness.compare import Plan, Results
from harness.engines import PEERS, ferrule
from harness.work import WORKS

BINARY = Path(__file__).parent.parent / "target" / "release" / "ferrule"


def main() -> None:
    args = _arguments()
    doctor = ferrule.doctor(args.binary)
    versions = {name: version for name in args.peers if (version := PEERS[name].version())}
    for name in args.peers:
        if name not in versions:
            print(f"{name} is skipped: {PEERS[name].distribution} is not installed", file=sys.stderr)
    min_read = args.min_read and args.min_read * 1e9
    plan = Plan(
        args.binary,
        args.models,
        args.works,
        list(versions),
        args.rounds,
        args.threads,
        args.timeout,
        min_read,
        args.tries,
    )
    results = Results(doctor["machine"], {"ferrule": doctor["version"], **versions})
    try:
        compare.run(plan, results)
    except KeyboardInterrupt:
        print("interrupted: these were measured", file=sys.stderr)
    show(results, args.out)


def show(results: Results, out: Path | None) -> None:
    text = f"{table.heading(results)}\n{table.markdown(results)}"
    print(text)
    for (model, work, engine), error in results.failures.items():
        print(f"{engine} failed at {model}, {WORKS[work].title}: {error}", file=sys.stderr)
    if out:
        out.with_name(f"{out.name}.json").write_text(json.dumps(results.json(), indent=1) + "\n")
        out.with_name(f"{out.name}.md").write_text(text)
        _draw(results, out.with_name(f"{out.name}.svg"))


def _draw(results: Results, path: Path) -> None:
    try:
        from harness import picture
    except ImportError:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return
    if results.values:
        picture.draw(results, path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help=".gguf files and folders")
    usual = [name for name, work in WORKS.items() if not work.is_long]
    parser.add_argument("--works", nargs="+", choices=WORKS, default=usual, help="rows of the table: all but long ones")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", type=Path, default=BINARY, help="the ferrule command")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="for one measurement")
    steady = "count measurements with this much read bandwidth before and after, where memory changes its speed"
    parser.add_argument("--min-read", type=float, metavar="GB/S", help=steady)
    parser.add_argument("--tries", type=int, default=10, help="measurements until one counts, with --min-read")
    parser.add_argument("--out", type=Path, metavar="NAME", help="writes NAME.json, NAME.md and NAME.svg")
    return parser.parse_args()


if __name__ == "__main__":
    main()
