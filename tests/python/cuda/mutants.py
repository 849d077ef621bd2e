"""Plants bugs in kernels, one at a time, and says which of them the tests of the checked build catch.

`make mutants` runs it. A mutant that survives is a hole in the tests (or changes nothing that anybody can see).
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from emulator import FOLDER, ROOT

# File, tests that know it, what is wrong, and the text that it replaces.
MUTANTS = [
    ("norm", "norm", "no residual add", "r[i] + (post_weight ?", "(post_weight ?"),
    ("norm", "norm", "wrong row", "normed + (int64_t)blockIdx.x * hidden_size", "normed + row * hidden_size"),
    ("rope", "rope", "wrong sign", "(left ? -other[i] : other[i])", "(left ? other[i] : -other[i])"),
    ("rope", "rope", "padding is stored", "    if (slot < 0) return;\n", ""),
    ("rope", "rope", "values into keys", "* 2 + is_value)", "* 2)"),
    (
        "attention_decode",
        "decode or mixed",
        "block off by one",
        "max_blocks + base / 16]",
        "max_blocks + base / 16 + 1]",
    ),
    ("attention_decode", "decode or mixed", "window off by one", "context_len - window)", "context_len - window - 1)"),
    ("attention_decode", "decode or mixed", "no rescale", "        sum *= shrink;\n", ""),
    ("attention_decode", "decode or mixed", "keys of a fragment swapped", "? 0x7632 : 0x5410", "? 0x3276 : 0x1054"),
    ("attention_decode", "decode or mixed", "no barrier", "    __syncthreads();\n", ""),
    ("attention_decode", "four_gib", "int offset", "const int64_t block = block", "const int block = block"),
    ("attention_prefill", "prefill", "causal mask", "key <= mine", "key < mine"),
    ("attention_prefill", "prefill", "a group too few", "cp_async_wait<1>()", "cp_async_wait<2>()"),
    ("attention_prefill", "prefill", "V not transposed", "ldmatrix_x4_trans(v", "ldmatrix_x4(v"),
    ("attention_prefill", "prefill", "no syncwarp", "    __syncwarp();\n", ""),
    ("attention_prefill", "prefill", "fragment order", "q, k[0], k[1]", "q, k[0], k[2]"),
    ("gemm", "test_gemm", "a stage too early", "cp_async_wait<STAGES - 2>", "cp_async_wait<STAGES - 1>"),
    ("gemm", "test_gemm", "no barrier", "            __syncthreads();\n", ""),
    ("gemm", "test_gemm", "row guard", "if (row >= m) continue;", ""),
    ("gemm", "test_gemm", "a part twice", "total[i][j][c] += acc[i][j][c];", "total[i][j][c] += 2 * acc[i][j][c];"),
    (
        "gemm",
        "test_gemm",
        "the last part is left out",
        "part < PARTS; ++part) sum +=",
        "part < PARTS - 1; ++part) sum +=",
    ),
    (
        "gemm",
        "test_gemm",
        "panels of another tile",
        "const int panel = n0 / 16 + threadIdx.x / 32;",
        "const int panel = threadIdx.x / 32;",
    ),
    ("gemm", "test_gemm", "int partials", "partials + (int64_t)part * m * n, acc", "partials + (int64_t)part * m, acc"),
    (
        "gemm",
        "product",
        "sums in another order",
        "stage < end; ++stage)",
        "stage < end || (gridDim.z == 1 && stage < last); ++stage)",
    ),
    ("gemm_skinny", "skinny", "no barrier", "    __syncthreads();\n", ""),
    (
        "gemm_skinny",
        "skinny",
        "column guard",
        "if (row >= m || (int)blockIdx.x * 16 + column >= n) continue;",
        "if (row >= m) continue;",
    ),
    (
        "gemm_skinny",
        "skinny",
        "scale of the other row",
        "split_scale((uint16_t)(scales >> 16 * half))));",
        "split_scale((uint16_t)(scales >> 16 * (1 - half)))));",
    ),
    (
        "gemm_skinny",
        "skinny",
        "a group too early",
        "w.groups - 1);\n            const int64_t place",
        "w.groups - 1) & ~1;\n            const int64_t place",
    ),
    ("gemm_skinny", "skinny", "steps swapped", "codes[2 * step + half]", "codes[2 * (1 - step) + half]"),
    (
        "gemm_skinny",
        "product",
        "parts in another order",
        "sum += sums[part][row][column]",
        "sum += sums[PARTS - 1 - part][row][column]",
    ),
    ("logits", "argmax", "last of the largest", "other_index < index", "other_index > index"),
    (
        "activation",
        "gated",
        "gate and up swapped",
        "Activation::apply(x[i]) * up[i]",
        "Activation::apply(up[i]) * x[i]",
    ),
    ("kv_copy", "copy", "one layer only", "blockIdx.y * num_blocks", "0 * num_blocks"),
]


def build(folder, file, text):
    """The checked library with one kernel file replaced."""
    mutant, library = folder / f"{file}.cu", folder / "cuda-emu" / "libcuda_emu_check.so"
    library.parent.mkdir()
    mutant.write_text(text)
    flags = ["-std=c++17", "-O1", "-g1", "-fPIC", "-w", "-DSIMT_EMU", "-fno-strict-aliasing", "-fsanitize=thread"]
    hooks = ["--param", "tsan-instrument-func-entry-exit=0", f"-I{ROOT / 'cuda'}"]
    compiled = folder / "mutant.o"
    subprocess.run(["g++", *flags, *hooks, "-x", "c++", "-c", mutant, "-o", compiled], check=True)
    others = [part for part in (FOLDER / "check").glob("*.o") if part.stem != file]
    subprocess.run(["g++", "-shared", "-o", library, compiled, *others], check=True)


def is_caught(file, tests, old, new):
    text = (ROOT / "cuda" / f"{file}.cu").read_text()
    assert text.count(old) == 1, f"{file}: {old!r} is there {text.count(old)} times"
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), file, text.replace(old, new))
        pytest = [sys.executable, "-m", "pytest", "-xq", f"--confcutdir={here}", str(here)]
        select = ["-k", f"checked and ({tests})", "-p", "no:cacheprovider"]
        environment = os.environ | {"CARGO_TARGET_DIR": name}
        done = subprocess.run([*pytest, *select], env=environment, capture_output=True, check=False)
    assert done.returncode in (0, 1) or done.returncode < 0, done.stdout.decode()
    return done.returncode != 0


def main():
    file, tests, _, old, _ = MUTANTS[0]
    assert not is_caught(file, tests, old, old), "the tests fail without a bug"
    survivors = 0
    for file, tests, what, old, new in MUTANTS:
        caught = is_caught(file, tests, old, new)
        survivors += not caught
        print(f"{'caught' if caught else 'SURVIVED':9} {file}: {what}", flush=True)
    print(f"{len(MUTANTS) - survivors} of {len(MUTANTS)} caught")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
