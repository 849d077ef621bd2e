"""Size against quality of what `ferrule quantize` makes, and of what llama.cpp's quantizer makes of the same files.

    pip install ferrule[peers]
    python benches/quantization.py smollm2 gemma3:270m --dequantize --out MADE

Makes every scheme of every model, measures perplexities on the Python language reference as benches/quality.py
does, and writes MADE/results.json, a table to stdout and MADE/quantization.svg. With --dequantize everything is
made of a file of the model's numbers in F32. The source's perplexity is the model's own also then: it has the same
numbers, and activations as the results have them. The calibration text is what each model writes by itself, so
that it has nothing of the reference; llama.cpp's quantizer goes without. What MADE has is not made or measured
again.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import quality
from harness import llama_quantize
from harness.picture import INK

FOLDERS = ["int4", "int4-gptq", "int4-awq", "int8", "int8-w8a8"]
FILES = ["q4_0", "q4_k_m", "q5_k_m", "q6_k", "q8_0"]
COLOURS = {"ferrule": "#d9602b", "llama.cpp": "#5b8db8"}
MARKS = {True: "s", False: "o"}

Results = dict[str, dict[str, Any]]


def main() -> None:
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    saved = args.out / "results.json"
    results: dict[str, Results] = json.loads(saved.read_text()) if saved.exists() else {}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(quality.text(args.characters))
        file.flush()
        for model in args.models:
            source = _dequantized(args, model) if args.dequantize else model
            scores = results.setdefault(model, {})
            for name, path in _wanted(args, model):
                if name not in scores:
                    scores[name] = _score(args, source, name, path, Path(file.name))
                    saved.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    draw(results, args.out / "quantization.svg")


def _wanted(args: argparse.Namespace, model: str) -> list[tuple[str, Path]]:
    """Names of results and where their models lie: the source, ours, and llama.cpp's of those that are files."""
    stem = _stem(model)
    ours = [(scheme, args.out / (f"{stem}-{scheme}" + ".gguf" * (scheme in FILES))) for scheme in args.schemes]
    theirs = [(f"{scheme} by llama.cpp", args.out / f"{stem}-{scheme}-peer.gguf") for scheme in args.schemes]
    return [("source", Path(model)), *ours, *(peer for peer in theirs if peer[0].split()[0] in FILES)]


def _stem(model: str) -> str:
    return Path(model).name.replace(":", "-")


def _dequantized(args: argparse.Namespace, model: str) -> str:
    path: Path = args.out / f"{_stem(model)}-f32.gguf"
    if not path.exists():
        llama_quantize.quantize(_file(args, model), path, "F32", os.cpu_count() or 1)
    return str(path)


def _score(args: argparse.Namespace, source: str, name: str, path: Path, text: Path) -> dict[str, Any]:
    """Perplexity and bytes of a model, which is made first if it is not there."""
    if name == "source":
        return quality.perplexity(args.binary, str(path), text, args.mode, ctx=512)
    scheme, _, peer = name.partition(" by ")
    if not path.exists() and peer:
        llama_quantize.quantize(_file(args, source), path, scheme.upper(), os.cpu_count() or 1)
    elif not path.exists():
        subprocess.run([str(args.binary), "quantize", source, str(path), "--scheme", scheme], check=True)
    num_bytes = sum(file.stat().st_size for file in ([path] if path.is_file() else path.glob("*.safetensors")))
    return quality.perplexity(args.binary, str(path), text, args.mode, ctx=512) | {"bytes": num_bytes}


def _file(args: argparse.Namespace, model: str) -> Path:
    shown = subprocess.run([str(args.binary), "show", model, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(json.loads(shown.stdout)["path"])


def loss(scores: Results, name: str) -> float:
    """In percent of the source's perplexity."""
    return 100 * float(scores[name]["perplexity"] / scores["source"]["perplexity"] - 1)


def table(results: dict[str, Results]) -> str:
    lines = ["| model | scheme | MB | perplexity | loss |", "|---|---|---:|---:|---:|"]
    for model, scores in results.items():
        lines.append(f"| {model} | source | | {scores['source']['perplexity']:.4f} | |")
        for name, score in scores.items():
            if name != "source":
                cells = [model, name, f"{score['bytes'] / 1e6:.1f}", f"{score['perplexity']:.4f}"]
                lines.append(f"| {' | '.join(cells)} | {loss(scores, name):+.2f} % |")
    return "\n".join(lines)


def draw(results: dict[str, Results], path: Path) -> None:
    """A panel for each model: size to the right, loss upwards; circles are folders and squares are files."""
    mpl.rcParams.update({"font.size": 9, "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK})
    figure = Figure(figsize=(6 * len(results), 3.8), layout="constrained")
    for axis, (model, scores) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        made = sorted((name for name in scores if name != "source"), key=lambda name: loss(scores, name))
        for name in made:
            scheme, _, peer = name.partition(" by ")
            place = (scores[name]["bytes"] / 1e6, loss(scores, name))
            axis.plot(*place, MARKS[scheme in FILES], color=COLOURS[peer or "ferrule"], markersize=5)
        # Neighbours' names go up and down by turns.
        for i, name in enumerate(name for name in made if " by " not in name):
            place = (scores[name]["bytes"] / 1e6, loss(scores, name))
            axis.annotate(name, place, (4, -11 if i % 2 else 4), textcoords="offset points", fontsize=8)
        axis.set_title(model, loc="left", fontsize=9, fontweight="bold")
        axis.set_xlabel("MB of tensors")
        axis.set_ylabel("loss of perplexity, %")
        # Linear below one percent, where files of more bits lie.
        axis.set_yscale("symlog", linthresh=1)
        axis.set_yticks(ticks := [-0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100], [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.margins(0.2)
        axis.tick_params(colors=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(INK)
    marks = [Line2D([], [], marker="o", linestyle="", color=colour, label=who) for who, colour in COLOURS.items()]
    figure.axes[0].legend(handles=marks, frameon=False, loc="upper right")
    figure.savefig(path, transparent=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a .gguf file, a Hugging Face folder, or a name")
    parser.add_argument("--out", type=Path, required=True, metavar="MADE", help="folder for models and results")
    parser.add_argument("--dequantize", action="store_true", help="make everything of the model's numbers in F32")
    parser.add_argument("--schemes", nargs="+", default=FOLDERS + FILES, choices=FOLDERS + FILES)
    parser.add_argument("--characters", type=int, default=250_000, help="of the text [default: 250000]")
    parser.add_argument("--mode", default="int8/bf16", help="ACTIVATIONS/CACHE [default: int8/bf16]")
    parser.add_argument("--binary", type=Path, default=quality.BINARY, help="the ferrule command")
    return parser.parse_args()


if __name__ == "__main__":
    main()
