"""Size against quality of what `ferrule quantize` makes.

    python benches/quantization.py smollm2 gemma3:270m --out MADE

Makes every scheme of every model (a folder that is there already stays), measures perplexities on the Python language
reference as benches/quality.py does, and writes MADE/results.json, a table to stdout and MADE/quantization.svg. The
calibration text is what each model writes by itself, so that it has nothing of the reference.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

import quality
from harness.picture import INK

SCHEMES = ["int4", "int4-gptq", "int4-awq", "int8", "int8-w8a8"]
COLOURS = {"int4": "#7f7f7f", "int4-gptq": "#d9602b", "int4-awq": "#5b8db8", "int8": "#7aa874", "int8-w8a8": "#a58bb5"}


def main() -> None:
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
        file.write(quality.text(args.characters))
        file.flush()
        for model in args.models:
            results[model] = {"source": _perplexity(args, model, Path(file.name))}
            for scheme in args.schemes:
                folder = args.out / f"{Path(model).name.replace(':', '-')}-{scheme}"
                made = _make(args, model, folder, scheme)
                results[model][scheme] = _perplexity(args, str(folder), Path(file.name)) | {"bytes": made["bytes"]}
            (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    draw(results, args.out / "quantization.svg")


def _make(args: argparse.Namespace, model: str, folder: Path, scheme: str) -> dict[str, Any]:
    """The certificate."""
    if not folder.exists():
        subprocess.run([str(args.binary), "quantize", model, str(folder), "--scheme", scheme], check=True)
    shown = subprocess.run(
        [str(args.binary), "show", str(folder), "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    certificate: dict[str, Any] = json.loads(shown.stdout)["certificate"]
    return certificate


def _perplexity(args: argparse.Namespace, model: str, text: Path) -> dict[str, Any]:
    return quality.perplexity(args.binary, model, text, args.mode, ctx=512)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Losses in percent of the source's perplexity."""
    lines = ["| model | scheme | MB | perplexity | loss |", "|---|---|---:|---:|---:|"]
    for model, schemes in results.items():
        source = schemes["source"]["perplexity"]
        lines.append(f"| {model} | source | | {source:.4f} | |")
        for scheme, made in schemes.items():
            if scheme != "source":
                loss, size = 100 * (made["perplexity"] / source - 1), made["bytes"] / 1e6
                lines.append(f"| {model} | {scheme} | {size:.1f} | {made['perplexity']:.4f} | {loss:+.2f} % |")
    return "\n".join(lines)


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """A panel for each model: size to the right, loss upwards."""
    mpl.rcParams.update({"font.size": 9, "svg.fonttype": "none", "text.color": INK, "axes.labelcolor": INK})
    figure = Figure(figsize=(4 * len(results), 3), layout="constrained")
    for axis, (model, schemes) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        for scheme, made in schemes.items():
            if scheme == "source":
                continue
            loss = 100 * (made["perplexity"] / schemes["source"]["perplexity"] - 1)
            axis.plot(made["bytes"] / 1e6, loss, "o", color=COLOURS[scheme])
            axis.annotate(scheme, (made["bytes"] / 1e6, loss), (5, 3), textcoords="offset points")
        axis.set_title(model, loc="left", fontsize=9, fontweight="bold")
        axis.set_xlabel("MB of tensors")
        axis.set_ylabel("loss of perplexity, %")
        axis.margins(0.25)
        axis.tick_params(colors=INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(INK)
    figure.savefig(path, transparent=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a .gguf file, a Hugging Face folder, or a name")
    parser.add_argument("--out", type=Path, required=True, metavar="MADE", help="folder for models and results")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, choices=SCHEMES)
    parser.add_argument("--characters", type=int, default=250_000, help="of the text [default: 250000]")
    parser.add_argument("--mode", default="int8/bf16", help="ACTIVATIONS/CACHE [default: int8/bf16]")
    parser.add_argument("--binary", type=Path, default=quality.BINARY, help="the ferrule command")
    return parser.parse_args()


if __name__ == "__main__":
    main()
