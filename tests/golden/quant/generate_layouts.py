"""Makes layouts.json: matrices as the libraries pack them whose checkpoints Ferrule reads and writes.

    pip install gptqmodel==7.7.0 compressed-tensors==0.20.1
    pip download --no-deps auto-gptq==0.7.1 autoawq==0.2.9      # needs torch; then unpack both in FOLDER
    python tests/golden/quant/generate_layouts.py FOLDER

AutoGPTQ (version 1 of GPTQ's zero points), GPTQModel (version 2), AutoAWQ, and compressed-tensors. Of the first and the
third only the modules that pack are imported: their packages want versions of Transformers of their time. Where a
library can decode what it packed, it must find the same weights. Bytes are in hexadecimal: codes and zero points a byte
each, (rows, cols) and (rows, groups); scales float16, (rows, groups); groups of columns a byte each.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
ROWS, COLS = 32, 128
# Name, packer, bits, columns in a group, symmetric, whether columns are sorted into groups.
CASES = [
    ("gptq-symmetric", "auto-gptq", 4, 32, True, False),
    ("gptq", "auto-gptq", 4, 64, False, False),
    ("gptq-act-order", "auto-gptq", 4, 32, False, True),
    ("gptq-whole-columns", "auto-gptq", 4, COLS, False, False),
    ("gptq-8-bits", "auto-gptq", 8, 32, True, False),
    ("gptq-v2", "gptqmodel", 4, 32, False, False),
    ("gptq-v2-act-order", "gptqmodel", 4, 32, False, True),
    ("gptq-v2-8-bits", "gptqmodel", 8, 64, True, False),
    ("awq", "autoawq", 4, 32, False, False),
    ("awq-whole-columns", "autoawq", 4, COLS, False, False),
    ("packed-symmetric", "compressed-tensors", 4, 32, True, False),
    ("packed", "compressed-tensors", 4, 64, False, False),
    ("packed-8-bits", "compressed-tensors", 8, 32, True, False),
    ("plain", "compressed-tensors", 8, COLS, True, False),
    ("gptq-8-bits-zeros", "auto-gptq", 8, 64, False, False),
    ("gptq-8-bits-act-order", "auto-gptq", 8, 32, False, True),
    ("gptq-8-bits-whole-columns", "auto-gptq", 8, COLS, False, False),
    ("gptq-v2-8-bits-zeros", "gptqmodel", 8, 128, False, False),
    ("gptq-v2-8-bits-act-order", "gptqmodel", 8, 32, False, True),
    ("packed-8-bits-zeros", "compressed-tensors", 8, 32, False, False),
    ("plain-zeros", "compressed-tensors", 8, COLS, False, False),
]


class Matrix:
    """Random codes, whose middle is the zero point of symmetric ones, and the weights that they stand for."""

    def __init__(self, seed, packer, bits, group, symmetric, sorted_columns):
        rng = np.random.default_rng(seed)
        self.bits, self.group, self.symmetric, num_groups = bits, group, symmetric, COLS // group
        self.codes = rng.integers(0, 2**bits, (ROWS, COLS), dtype=np.uint8)
        # AutoGPTQ stores a zero point less one in as many bits: zero has no place.
        least = 1 if packer == "auto-gptq" else 0
        zeros = rng.integers(least, 2**bits, (ROWS, num_groups), dtype=np.uint8)
        self.zeros = np.full_like(zeros, 2 ** (bits - 1)) if symmetric else zeros
        self.scales = rng.uniform(0.001, 0.1, (ROWS, num_groups)).astype(np.float16)
        groups = np.arange(COLS) // group
        self.groups = (rng.permutation(groups) if sorted_columns else groups).astype(np.uint8)
        steps = self.codes.astype(np.float32) - self.zeros[:, self.groups]
        self.weights = self.scales.astype(np.float32)[:, self.groups] * steps

    def linear(self):
        linear = torch.nn.Linear(COLS, ROWS, bias=False)
        linear.weight.data = torch.from_numpy(self.weights.copy())
        return linear

    def factors(self):
        """Scales and zero points, (rows, groups)."""
        return torch.from_numpy(self.scales.astype(np.float32)), torch.from_numpy(self.zeros.astype(np.float32))

    def order(self):
        return torch.from_numpy(self.groups.astype(np.int32))

    def check(self, decoded, dtype=np.float16):
        """`decoded` (rows, cols) are the weights, rounded to `dtype` as the library has them."""
        np.testing.assert_array_equal(decoded.numpy(), self.weights.astype(dtype))


def only_modules_of(name, folder):
    """A package whose `__init__` is not run."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def auto_gptq(matrix, folder):
    root = next(folder.rglob("auto_gptq/nn_modules")).parent
    for name in ("auto_gptq", "auto_gptq.nn_modules", "auto_gptq.nn_modules.qlinear"):
        only_modules_of(name, root.joinpath(*name.split(".")[1:]))
    from auto_gptq.nn_modules.qlinear import qlinear_cuda

    layer = qlinear_cuda.QuantLinear(matrix.bits, matrix.group, COLS, ROWS, bias=False)
    layer.pack(matrix.linear(), *matrix.factors(), matrix.order())
    inputs = torch.eye(COLS, dtype=torch.float32)
    matrix.check(layer(inputs).t(), np.float32)
    return {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales.half(), "g_idx": layer.g_idx}


def gptqmodel(matrix, _folder):
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear

    sizes = {"group_size": matrix.group, "in_features": COLS, "out_features": ROWS}
    layer = TorchLinear(matrix.bits, sym=matrix.symmetric, desc_act=True, bias=False, **sizes)
    layer.pack(matrix.linear(), *matrix.factors(), matrix.order())
    layer.post_init()
    matrix.check(layer.dequantize_weight().t())
    return {name: getattr(layer, name) for name in ("qweight", "qzeros", "scales", "g_idx")}


def autoawq(matrix, folder):
    root = next(folder.rglob("awq/modules")).parent
    for name in ("awq", "awq.modules", "awq.modules.linear", "awq.utils"):
        only_modules_of(name, root.joinpath(*name.split(".")[1:]))
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    scales, zeros = (factor.t().contiguous() for factor in matrix.factors())
    layer = WQLinear_GEMM.from_linear(matrix.linear(), 4, matrix.group, scales=scales, zeros=zeros)
    decoded = dequantize_gemm(layer.qweight, layer.qzeros, layer.scales, 4, matrix.group)
    matrix.check(decoded.t())
    return {"qweight": layer.qweight, "qzeros": layer.qzeros, "scales": layer.scales}


def compressed_tensors(matrix, _folder):
    from compressed_tensors.compressors.naive_quantized import IntQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    by_row = matrix.group == COLS
    compressor = IntQuantizationCompressor if by_row else PackedQuantizationCompressor
    shape = {"strategy": "channel"} if by_row else {"strategy": "group", "group_size": matrix.group}
    args = QuantizationArgs(num_bits=matrix.bits, symmetric=matrix.symmetric, **shape)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    scales, zeros = matrix.factors()
    # Codes have their middle at zero there.
    parts = {"weight_zero_point": (zeros - 2 ** (matrix.bits - 1)).to(torch.int8)}
    parts |= {"weight": matrix.linear().weight.data, "weight_scale": scales}
    compressed = compressor.compress(parts, scheme)
    matrix.check(compressor.decompress(compressed, scheme)["weight"], np.float32)
    return compressed | {"weight_scale": compressed["weight_scale"].half()}


PACKERS = {
    "auto-gptq": auto_gptq,
    "gptqmodel": gptqmodel,
    "autoawq": autoawq,
    "compressed-tensors": compressed_tensors,
}


def main() -> None:
    cases = []
    for seed, (name, packer, *choices) in enumerate(CASES):
        matrix = Matrix(seed, packer, *choices)
        tensors = PACKERS[packer](matrix, Path(sys.argv[1]))
        case = {"name": name, "packer": packer, "rows": ROWS, "cols": COLS, "group": matrix.group, "bits": matrix.bits}
        case |= {part: getattr(matrix, part).tobytes().hex() for part in ("codes", "zeros", "scales", "groups")}
        parts = {part: tensor.detach().cpu().contiguous().numpy() for part, tensor in tensors.items()}
        case["tensors"] = {part: [list(array.shape), array.tobytes().hex()] for part, array in parts.items()}
        cases.append(case)
    (HERE / "layouts.json").write_text("[\n" + ",\n".join(map(json.dumps, cases)) + "\n]\n")


if __name__ == "__main__":
    main()
