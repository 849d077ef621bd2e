"""Perplexity by types of activations and of the KV cache, on the same text.

    python benches/quality.py smollm2 --binary target/release/ferrule
    python benches/quality.py smollm2 --modes f32/f32 int8/bf16 int8/int8 int8/fp8

A mode is ACTIVATIONS/CACHE; the first one is what the others are compared with. The text is the Python language
reference, which every Python carries (pydoc_data.topics, PSF licence), so that nothing has to be fetched. Versions of
Python differ in it: only figures of one run are compared.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

BINARY = Path(__file__).parent.parent / "target" / "release" / "ferrule"
MODES = ["f32/f32", "int8/bf16"]


def main() -> None:
    args = _arguments()
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(text(args.characters))
        file.flush()
        scores = {mode: perplexity(args.binary, args.model, Path(file.name), mode, args.ctx) for mode in args.modes}
    print(json.dumps(comparison(args.model, scores), indent=1))


def text(num_characters: int) -> str:
    """The reference's topics by name, as many characters as wanted."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return "\n\n".join(topics[name] for name in sorted(topics))[:num_characters]


def perplexity(binary: Path, model: str, file: Path, mode: str, ctx: int) -> dict[str, Any]:
    """What `ferrule perplexity --json` says."""
    activations, cache = mode.split("/")
    options = ["--activations", activations, "--kv-cache-dtype", cache, "--ctx", str(ctx), "--json"]
    done = subprocess.run(
        [str(binary), "perplexity", model, str(file), *options], stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def comparison(model: str, scores: dict[str, dict[str, Any]]) -> dict[str, object]:
    """Differences are those of the perplexities, in percent of the first mode's: positive if a mode is worse."""
    first, *others = scores.values()
    for other in others:
        if other["tokens"] != first["tokens"]:
            raise ValueError(f"the modes scored {first['tokens']} and {other['tokens']} tokens")
    perplexities = {mode: score["perplexity"] for mode, score in scores.items()}
    return {
        "model": model,
        "python": ".".join(map(str, sys.version_info[:3])),
        "tokens": first["tokens"],
        "perplexity": perplexities,
        "difference_percent": {mode: 100 * (x / first["perplexity"] - 1) for mode, x in perplexities.items()},
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a .gguf file, a Hugging Face folder, or a name")
    parser.add_argument("--modes", nargs="+", default=MODES, help=f"[default: {' '.join(MODES)}]")
    parser.add_argument("--characters", type=int, default=250_000, help="of the text [default: 250000]")
    parser.add_argument("--ctx", type=int, default=512, help="tokens per window [default: 512]")
    parser.add_argument("--binary", type=Path, default=BINARY, help="the ferrule command")
    return parser.parse_args()


if __name__ == "__main__":
    main()
