"""Perplexity with int8 activations (fast) and with float32 ones (exact), on the same text.

    python benches/quality.py smollm2 --binary target/release/ferrule

The text is the Python language reference, which every Python carries (pydoc_data.topics, PSF licence), so that
nothing has to be fetched. Versions of Python differ in it: only figures of one run are compared. The exact mode also
keeps its keys and values in float32.
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
MODES = ("int8", "f32")


def main() -> None:
    args = _arguments()
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(text(args.characters))
        file.flush()
        fast, exact = (perplexity(args.binary, args.model, Path(file.name), mode, args.ctx) for mode in MODES)
    print(json.dumps(comparison(args.model, fast, exact), indent=1))


def text(num_characters: int) -> str:
    """The reference's topics by name, as many characters as wanted."""
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return "\n\n".join(topics[name] for name in sorted(topics))[:num_characters]


def perplexity(binary: Path, model: str, file: Path, activations: str, ctx: int) -> dict[str, Any]:
    """What `ferrule perplexity --json` says."""
    options = ["--activations", activations, "--ctx", str(ctx), "--json"]
    done = subprocess.run(
        [str(binary), "perplexity", model, str(file), *options], stdout=subprocess.PIPE, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def comparison(model: str, fast: dict[str, Any], exact: dict[str, Any]) -> dict[str, object]:
    """The difference is that of the perplexities, in percent of the exact mode's: positive if the fast one is worse."""
    if fast["tokens"] != exact["tokens"]:
        raise ValueError(f"the modes scored {fast['tokens']} and {exact['tokens']} tokens")
    return {
        "model": model,
        "python": ".".join(map(str, sys.version_info[:3])),
        "tokens": exact["tokens"],
        "perplexity": {"int8": fast["perplexity"], "f32": exact["perplexity"]},
        "difference_percent": 100 * (fast["perplexity"] / exact["perplexity"] - 1),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a .gguf file, a Hugging Face folder, or a name")
    parser.add_argument("--characters", type=int, default=250_000, help="of the text [default: 250000]")
    parser.add_argument("--ctx", type=int, default=512, help="tokens per window [default: 512]")
    parser.add_argument("--binary", type=Path, default=BINARY, help="the ferrule command")
    return parser.parse_args()


if __name__ == "__main__":
    main()
