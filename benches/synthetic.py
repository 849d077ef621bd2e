"""Makes models with random weights in the shapes of real ones, and requantizes GGUF files.

    python benches/synthetic.py OUT --shape llama-3.2-1b --format safetensors Q4_0 Q4_K_M Q8_0
    python benches/synthetic.py OUT --shape llama-3.2-1b --format gptq gptq-act-order
    python benches/synthetic.py OUT --requantize SmolLM2-135M-Instruct.Q4_1.gguf --format Q4_0

A shape gives OUT/SHAPE (a Hugging Face folder in bf16) and OUT/SHAPE.FORMAT.gguf, all of the same weights, and
OUT/SHAPE.gptq (a folder of random codes); a format whose file exists is not made again. GGUF needs the optional
dependencies: pip install 'ferrule[peers]'.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from harness import gptq_folder, hf_folder
from harness.shapes import SHAPES

FOLDERS = ("safetensors", "gptq", "gptq-act-order")
FORMATS = (*FOLDERS, "BF16", "Q4_0", "Q2_K", "Q3_K_M", "Q4_K_M", "IQ4_NL", "IQ4_XS", "MXFP4", "Q8_0")


def main() -> None:
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.shape:
        for format_name in args.format:
            make(name, format_name, args.out, args.threads)
    if args.requantize:
        for format_name in args.format:
            requantize(args.requantize, format_name, args.out, args.threads)


def make(shape_name: str, format_name: str, out: Path, threads: int) -> None:
    shape = SHAPES[shape_name]
    match format_name:
        case "safetensors":
            _once(out / shape_name, lambda path: hf_folder.write(shape, path))
        case "gptq" | "gptq-act-order":
            act_order = format_name == "gptq-act-order"
            _once(out / f"{shape_name}.{format_name}", lambda path: gptq_folder.write(shape, path, act_order))
        case _:
            make_gguf(shape_name, format_name, out, threads)


def make_gguf(shape_name: str, format_name: str, out: Path, threads: int) -> None:
    from gguf import GGMLQuantizationType

    from harness import gguf_file

    if format_name == "MXFP4":
        kind = GGMLQuantizationType.MXFP4
        _once(out / f"{shape_name}.MXFP4.gguf", lambda path: gguf_file.write(SHAPES[shape_name], path, kind))
        return
    source = out / f"{shape_name}.BF16.gguf"
    _once(source, lambda path: gguf_file.write(SHAPES[shape_name], path))
    if format_name != "BF16":
        requantize(source, format_name, out, threads)


def requantize(source: Path, format_name: str, out: Path, threads: int) -> None:
    from harness import llama_quantize

    name = source.name.removesuffix(".gguf").rpartition(".")[0] or source.stem
    _once(out / f"{name}.{format_name}.gguf", lambda path: llama_quantize.quantize(source, path, format_name, threads))


def _once(path: Path, write: Callable[[Path], None]) -> None:
    """A file that is there is whole: it gets its name when it is."""
    if not path.exists():
        partial = path.with_name(f"partial-{path.name}")
        write(partial)
        partial.rename(path)
    print(path)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the models")
    parser.add_argument("--shape", nargs="+", default=[], choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--requantize", type=Path, metavar="FILE", help="a GGUF file to quantize once more")
    parser.add_argument(
        "--format", nargs="+", default=["Q4_0"], choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS)
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    if not args.shape and not args.requantize:
        parser.error("nothing to make: give --shape or --requantize")
    return args


if __name__ == "__main__":
    main()
