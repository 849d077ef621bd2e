"""Plants bugs in kernels and in what the host asks of the driver, one at a time, and says which of them tests catch.

`make mutants` runs it. A mutant that survives is a hole in the tests (or changes nothing that anybody can see).
"""

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from emulator import FOLDER, ROOT

# File, tests that know it, what is wrong, and the text that it replaces.
MUTANTS = [
    ("norm", "norm", "no residual add", "r[i] + (post_weight ?", "(post_weight ?"),
    ("norm", "norm", "wrong row", "normed + (int64_t)blockIdx.x * hidden_size", "normed + row * hidden_size"),
    ("rope", "rope", "wrong sign", "(left ? -other[i] : other[i])", "(left ? other[i] : -other[i])"),
    ("rope", "rope", "padding is stored", "    if (slot < 0) return;\n", ""),
    ("rope", "rope", "values into keys", "block + is_value * part_bytes", "block"),
    (
        "rope",
        "rope or nearest",
        "a scale per lane",
        "first ? nullptr : scales + row",
        "first > 8 ? nullptr : scales + row",
    ),
    ("rope", "nearest", "codes are cut off", "0x7ffffu + (size >> 20 & 1)", "(size >> 20 & 1)"),
    ("rope", "nearest", "small numbers as large ones", "size < 0x3c800000u ? small", "size < 0x3c000000u ? small"),
    (
        "rope",
        "nearest",
        "the largest of half a head",
        "head_max(largest, head_dim / 8)",
        "head_max(largest, head_dim / 16)",
    ),
    (
        "attention_decode",
        "decode or mixed",
        "block off by one",
        "max_blocks + base / 16]",
        "max_blocks + base / 16 + 1]",
    ),
    (
        "attention_decode",
        "decode or mixed",
        "window off by one",
        "context_len - window)",
        "context_len - window - 1)",
    ),
    ("attention_decode", "decode or mixed", "no rescale", "        sum *= shrink;\n", ""),
    (
        "attention_decode",
        "decode or mixed",
        "keys of a fragment swapped",
        "i % 2 ? 0x7632 : 0x5410",
        "i % 2 ? 0x3276 : 0x1054",
    ),
    ("attention_decode", "decode or mixed", "no barrier", "    __syncthreads();\n", ""),
    ("attention_decode", "decode or mixed", "scales of keys for values", "factor, 16 + j * 8", "factor, j * 8"),
    (
        "attention_decode",
        "decode or mixed",
        "scales of another head",
        "num_kv_heads + kv_head) * 16",
        "num_kv_heads) * 16",
    ),
    ("attention_decode", "decode or mixed", "codes not widened", "o[odd + 2], p, lo[1]", "o[odd + 2], p, lo[0]"),
    (
        "attention_decode",
        "four_gib",
        "int offset",
        "keys = cache + block * block_bytes",
        "keys = cache + (int)(block * block_bytes)",
    ),
    ("attention_prefill", "prefill", "causal mask", "key <= mine", "key < mine"),
    ("attention_prefill", "chunks", "tiles of keys begin anywhere", "begin / KEYS * KEYS", "begin / 16 * 16"),
    (
        "attention_prefill",
        "prefill or mixed",
        "one query is nobody's",
        "if (first >= num_queries)",
        "if (first >= num_queries - 1)",
    ),
    ("attention_prefill", "prefill", "a group too few", "cp_async_wait<1>()", "cp_async_wait<2>()"),
    ("attention_prefill", "prefill", "V not transposed", "ldmatrix_x4_trans(v", "ldmatrix_x4(v"),
    (
        "attention_prefill",
        "prefill",
        "codes become tiles while others read",
        "k_tiles);\n            __syncthreads();",
        "k_tiles);",
    ),
    (
        "attention_prefill",
        "prefill",
        "scales of the other stage",
        "scales + stage * 2 * KEYS;",
        "scales + (stage ^ 1) * 2 * KEYS;",
    ),
    ("attention_prefill", "prefill", "no syncwarp", "    __syncwarp();\n", ""),
    ("attention_prefill", "prefill", "fragment order", "q, k[0], k[1]", "q, k[0], k[2]"),
    ("gemm", "test_gemm", "a stage too early", "cp_async_wait<STAGES - 2>", "cp_async_wait<STAGES - 1>"),
    ("gemm", "test_gemm", "no barrier", "            __syncthreads();\n", ""),
    ("gemm", "test_gemm", "row guard", "if (row >= m) continue;", ""),
    (
        "gemm",
        "test_gemm",
        "half of x stays bf16",
        "turn * THREADS + threadIdx.x) * 16;\n        store16",
        "turn / 2 * 2 * THREADS + threadIdx.x) * 16;\n        store16",
    ),
    (
        "gemm",
        "test_gemm",
        "x of another stage becomes f16",
        "Number>(stages + stage % STAGES * STAGE_BYTES)",
        "Number>(stages + (stage + 1) % STAGES * STAGE_BYTES)",
    ),
    (
        "gemm",
        "test_gemm",
        "x becomes f16 by whom it has not come for",
        "turn * THREADS + threadIdx.x) * 16;\n        store16",
        "turn * THREADS + (threadIdx.x ^ 1)) * 16;\n        store16",
    ),
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
    (
        "gemm",
        "test_gemm",
        "int partials",
        "partials + (int64_t)part * m * n, acc",
        "partials + (int64_t)part * m, acc",
    ),
    (
        "gemm",
        "product",
        "sums in another order",
        "stage < end; ++stage)",
        "stage < end || (num_splits == 1 && stage < last); ++stage)",
    ),
    (
        "gemm_skinny",
        "skinny",
        "column guard",
        "if (row >= m || column >= n) continue;",
        "if (row >= m) continue;",
    ),
    (
        "gemm_skinny",
        "product",
        "parts in another order",
        "sum += sums[part][row][i % 16]",
        "sum += sums[PARTS - 1 - part][row][i % 16]",
    ),
    (
        "gemm_skinny",
        "skinny",
        "one group of 16 for a whole step",
        "(t % 2 * 2 + i) * 32 + t / 2 * 16)",
        "(t % 2 * 2 + i) * 32)",
    ),
    (
        "gemm_skinny",
        "skinny",
        "no barrier",
        "        __syncthreads();\n        for (",
        "        for (",
    ),
    (
        "gemm_skinny",
        "skinny",
        "no barrier between panels",
        "        if (panel + 1 < num_panels) __syncthreads();\n",
        "",
    ),
    ("gemm_skinny", "skinny", "a panel too many", "const bool exists = panel < w.panels;", "const bool exists = true;"),
    ("gemm_skinny", "skinny", "the same turn again", "wraps ? at + BLOCK_K : at;", "at;"),
    ("gemm_skinny", "skinny", "the next turn a panel late", "SLOTS >= num_panels;", "SLOTS > num_panels;"),
    (
        "gemm_skinny",
        "skinny",
        "panels that no block has",
        "return (n + columns - 1) / columns * group;",
        "return n / columns * group;",
    ),
    ("gemm_skinny", "skinny", "another panel's codes", "loaded[panel % SLOTS]", "loaded[(panel + 1) % SLOTS]"),
    (
        "gemm_skinny",
        "skinny",
        "the first half of a step twice",
        "(lane & ~1) + step / 2",
        "(lane & ~3) + step / 2",
    ),
    (
        "gemm_skinny",
        "skinny",
        "columns of the next block",
        "((int)blockIdx.x * num_panels + panel) * 16",
        "((int)blockIdx.x + panel) * 16",
    ),
    ("gemm", "test_gemm", "one group of 16 for a whole stage", "HALVES == 2 ? lane % 4 / 2 : 0;", "0;"),
    (
        "gemm",
        "test_gemm",
        "factors of another panel",
        "((step * PANELS + panel) * HALVES + half_step) * 8 + g",
        "((step * PANELS + panel % 4) * HALVES + half_step) * 8 + g",
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
    ("moe", "moe", "no barrier", "    __syncthreads();\n", ""),
    ("moe", "moe", "the first of equals is not kept", "other_expert < expert", "other_expert > expert"),
    ("moe", "moe", "weights of another token", "weights[entry] * x[i]", "weights[k] * x[i]"),
    (
        "gemm",
        "moe",
        "rows of another expert",
        "x + (int64_t)first * k, own",
        "x + (int64_t)starts[0] * k, own",
    ),
    (
        "gemm_skinny",
        "mxfp4 or codes or skinny",
        "the power of two of the first step",
        "(lane & ~3) + step :",
        "(lane & ~3) :",
    ),
    ("gemm_skinny", "moe", "matrices of the first expert", "of_expert(weights, blockIdx.y)", "of_expert(weights, 0)"),
    ("gemm_skinny", "moe", "rows twice", "+ blockIdx.z * TILES * 8, m", "+ blockIdx.z * TILES * 4, m"),
    (
        "gemm_skinny",
        "moe",
        "rows of the next expert",
        "min(starts[blockIdx.y + 1] - first, TILES * 8)",
        "min(starts[gridDim.y] - first, TILES * 8)",
    ),
    ("columns", "columns", "no barrier", "    __syncthreads();\n", ""),
    (
        "columns",
        "columns",
        "rows of the width before",
        "out + (int64_t)blockIdx.x * columns + i",
        "out + (int64_t)blockIdx.x * width + i",
    ),
    (
        "columns",
        "columns",
        "pairs swapped",
        "row[from.x].bits | (uint32_t)row[from.y].bits",
        "row[from.y].bits | (uint32_t)row[from.x].bits",
    ),
    ("gemm_skinny", "skinny", "bf16 beside f16", "return Factor::of(inside ?", "return Factors<bf16>::of(inside ?"),
    ("embed", "embed", "no scale", "x[c] *= scale;", "x[c] *= 1.f;"),
    ("embed", "embed", "chosen tokens are not read", "source < 0 ? tokens", "true ? tokens"),
    ("embed", "embed", "no token is chosen", "max(chosen[source], 0)", "chosen[source]"),
    ("batch", "advance", "no barrier", "    __syncthreads();\n", ""),
    ("batch", "advance", "padding moves on", "        if (queries[seq].count == 0) continue;\n", ""),
    ("batch", "advance", "one table for all groups", "(int64_t)group * stride", "(int64_t)0 * stride"),
    (
        "batch",
        "advance",
        "the block before",
        "max_blocks + position / BLOCK_SIZE]",
        "max_blocks + (position - 1) / BLOCK_SIZE]",
    ),
    ("batch", "advance", "a change too few", "i < num_changes; i", "i < num_changes - 1; i"),
    (
        "attention_decode",
        "decode or mixed",
        "a piece twice",
        "lo + span.piece, span.end",
        "lo + span.piece + 16, span.end",
    ),
    (
        "attention_decode",
        "decode or mixed",
        "pieces in one place",
        "gridDim.x + split;",
        "gridDim.x + split / 2;",
    ),
    (
        "attention_decode",
        "decode or mixed",
        "the merge forgets a piece",
        "i < num_pieces; ++i) {",
        "i < num_pieces - 1; ++i) {",
    ),
    (
        "attention_prefill",
        "prefill",
        "heads of another group",
        "head / (num_heads / num_kv_heads)",
        "head % num_kv_heads",
    ),
    (
        "sample",
        "sampl",
        "no barrier before the digit",
        "        __syncthreads();\n        if (threadIdx.x < 32) find_digit",
        "        if (threadIdx.x < 32) find_digit",
    ),
    ("sample", "sampl", "bins are not cleared", "scratch.bins[bin] = 0;", "if (i == 0) scratch.bins[bin] = 0;"),
    ("sample", "sampl", "the last tie too many", "rank < kept.boundary.ties", "rank <= kept.boundary.ties"),
    ("sample", "sampl", "another round of random bits", "round < 10", "round < 9"),
    ("sample", "sampl", "one token too late", "__ffs(passed) - 1", "__ffs(passed) % 32"),
    (
        "logits",
        "edit",
        "mask after the edits",
        "        __syncthreads();\n    }\n    const float* p",
        "    }\n    const float* p",
    ),
    ("logits", "edit", "presence for all that was seen", "edit.count > 0 ? -presence : -0.f", "-presence"),
]


# The same in simt.cuh, as the kernels of a file see it.
HEADER_MUTANTS = [
    (
        "gemm_skinny",
        "activations",
        "the halves of a pair of f16 swapped",
        "pack_f16x2(bf16_lo(x.z), bf16_hi(x.z))",
        "pack_f16x2(bf16_hi(x.z), bf16_lo(x.z))",
    ),
    ("gemm", "test_gemm", "f16 as if they were bf16", "{ mma_f16(d, a, b0, b1); }", "{ mma_bf16(d, a, b0, b1); }"),
    ("embed", "embed", "pairs of f16 swapped", "words[i / 2] >> 16 * (i % 2)", "words[i / 2] >> 16 * (1 - i % 2)"),
    ("gemm_skinny", "skinny", "scale of the other row", "group.scales >> 16 * half", "group.scales >> 16 * (1 - half)"),
    ("gemm_skinny", "skinny", "a group too early", "f.zeros[place] : 0x0808u", "f.zeros[place & ~8] : 0x0808u"),
    ("gemm_skinny", "skinny", "steps swapped", "step % 2 ? second : first", "step % 2 ? first : second"),
    ("gemm", "test_gemm", "steps swapped", "step % 2 ? second : first", "step % 2 ? first : second"),
    (
        "gemm_skinny",
        "skinny",
        "codes of the other row",
        "half ? v.y : v.x, second = half ? v.w : v.z",
        "half ? v.x : v.y, second = half ? v.w : v.z",
    ),
    (
        "gemm_skinny",
        "skinny",
        "the power of two of the other row",
        "group >> 8 * half & 255",
        "group >> 8 * (1 - half) & 255",
    ),
    ("gemm", "test_gemm", "the power of two of another row", "group >> 8 * half & 255", "group & 255"),
    ("gemm", "moe", "codes of another expert", "w.codes + panel * w.blocks * 128", "w.codes"),
    ("gemm_skinny", "moe", "numbers of another expert", "w.weight + (int64_t)expert * w.n * w.k", "w.weight"),
    (
        "gemm_skinny",
        "skinny",
        "the minimum of codes that are raised",
        "__fmaf_rn(-128.f, scale",
        "__fmaf_rn(-64.f, scale",
    ),
]


# What the host's code does wrong, seen from the driver: tests in Rust that know it, what is wrong, and the text of
# cuda/emu/driver/api.cpp that it replaces.
LAUNCH = "    return enqueue(*stream, std::move(work));\n}\n\nint cuStreamCreate"


def without(kernel):
    skip = f'    if (!strcmp(function->kernel->name, "{kernel}")) return SUCCESS;\n'
    return LAUNCH, skip + LAUNCH


LONG, DRIVER = "long_contexts", "driver::an_event"
COPIES, SWAPS = "choices_that_copy", "swapped_sequences"
HOST_MUTANTS = [
    (
        DRIVER,
        "nobody waits for the event",
        "work.event = awaited;\n    return enqueue(*stream, work);",
        "return SUCCESS;",
    ),
    (LONG, "the event is recorded too early", "{stream, stream->issued, stream", "{stream, 0, stream"),
    (
        LONG,
        "rows are read before they have come",
        "awaited.stream ? drain(*awaited.stream, awaited.sequence) : sticky",
        "sticky",
    ),
    (LONG, "half of the shared memory", "{bx, by, bz}, dynamic_shared,", "{bx, by, bz}, dynamic_shared / 2,"),
    (LONG, "no shared memory beyond 48 KiB is asked for", "->dynamic_limit = value;", "->dynamic_limit = 0;"),
    (LONG, "a block of the grid too few", "{gx, gy, gz}, {bx", "{gx, gy > 1 ? gy - 1 : gy, gz}, {bx"),
    (LONG, "a sequence of the batch too few", "{gx, gy, gz}, {bx", "{gx, gy, gz > 1 ? gz - 1 : gz}, {bx"),
    (
        LONG,
        "half of a step's arrays stays behind",
        "copy_work(dst, from, bytes)) : copy_now",
        "copy_work(dst, from, bytes / 2)) : copy_now",
    ),
    (
        LONG,
        "half of the rows come back",
        "enqueue(*stream, copy_work(to, src, bytes))",
        "enqueue(*stream, copy_work(to, src, bytes / 2))",
    ),
    (
        LONG,
        "offsets of 32 bits",
        "work.params.emplace_back(param, param + function->kernel->param_bytes[i]);",
        "work.params.emplace_back(param, param + function->kernel->param_bytes[i]),"
        " work.params.back().resize(8), memset(&work.params.back()[4], 0, 4);",
    ),
    (
        LONG,
        "a graph lacks its first kernel",
        "if (const int code = enqueue(*stream, work)) return code;",
        "if (&work != &static_cast<Graph*>(executable)->work[0]) enqueue(*stream, work);",
    ),
    (COPIES, "shared blocks are not copied", *without("ferrule_copy_blocks")),
    (LONG, "the arrays of a step are not advanced", *without("ferrule_advance_batch")),
    (
        SWAPS,
        "only the first blocks go to host memory",
        "    return enqueue(*stream, copy_work(to, src, bytes));",
        "    return pinned.count(static_cast<uint8_t*>(to)) ? enqueue(*stream, copy_work(to, src, bytes)) : SUCCESS;",
    ),
    (
        SWAPS,
        "blocks come from the wrong place of host memory",
        "copy_work(dst, from, bytes)) : copy_now",
        "copy_work(dst, (--pinned.upper_bound(static_cast<const uint8_t*>(from)))->first, bytes)) : copy_now",
    ),
    (LONG, "parts of products are not summed", *without("ferrule_sum_parts")),
    (LONG, "pieces of attention are not merged", *without("ferrule_merge_splits")),
]

# The same for what the host asks of cuBLASLt, in cuda/emu/driver/cublaslt.cpp.
PRODUCTS, PROMPTS = "cublaslt::products", "cublaslt::models"
BLAS_MUTANTS = [
    (PRODUCTS, "the weight is not transposed", "{&a, &lda, &transa, &b", "{&a, &lda, &transb, &b"),
    (PRODUCTS, "x is transposed", "&ldb, &transb, &workspace", "&ldb, &transa, &workspace"),
    (
        PRODUCTS,
        "factors change places",
        "{&a, &lda, &transa, &b, &ldb, &transb",
        "{&b, &ldb, &transb, &a, &lda, &transa",
    ),
    (PRODUCTS, "rows of the weight lie n apart", "int64_t lda = la.ld,", "int64_t lda = la.cols,"),
    (PRODUCTS, "rows of x lie m apart", "ldb = lb.ld,", "ldb = lb.cols,"),
    (PRODUCTS, "rows of the result lie m apart", "ldd = ld.ld;", "ldd = ld.cols;"),
    (PRODUCTS, "the result is always bf16", "is_float = ld.type == CUDA_R_32F;", "is_float = 0;"),
    (
        PRODUCTS,
        "a plan of another shape",
        "results[0] = {{{problem.number(operation)}}",
        "static uint64_t first = problem.number(operation);\n    results[0] = {{{first}}",
    ),
    (PROMPTS, "another stream", "splits, stream, product))", "splits, nullptr, product))"),
    (
        PROMPTS,
        "half of the rows",
        "    const unsigned blocks = (p.m * p.n + 255) / 256;",
        "    const unsigned blocks = (p.m * p.n / 2 + 255) / 256;",
    ),
]


FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", "-w", "-DSIMT_EMU", "-fno-strict-aliasing", f"-I{ROOT / 'cuda'}"]
# What the Makefile of the emulator compiles kernels with, where accesses are checked.
KERNEL_FLAGS = ["-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0", "-x", "c++"]


def build(folder, source, text, flags, form="check"):
    """A library with one file replaced. Headers in `folder` come before the kernels' own."""
    mutant, library = folder / source.name, folder / "cuda-emu" / "libcuda_emu_check.so"
    library.parent.mkdir()
    mutant.write_text(text)
    compiled = folder / "mutant.o"
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, *FLAGS, f"-I{source.parent}", *flags, "-c", mutant, "-o", compiled]
    subprocess.run(command, check=True)
    others = [part for part in (FOLDER / form).glob("*.o") if part.stem != source.stem]
    subprocess.run([compiler, "-shared", "-o", library, compiled, *others], check=True)
    return library


def replaced(source, old, new):
    text = source.read_text()
    assert text.count(old) == 1, f"{source.name}: {old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def run(command, environment):
    done = subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, check=False)
    assert b"running 0 tests" not in done.stdout, command
    return done


def kernel_is_caught(file, tests, old, new, header=None):
    source, here = ROOT / "cuda" / f"{file}.cu", Path(__file__).parent
    with tempfile.TemporaryDirectory() as name:
        if header:
            (Path(name) / header.name).write_text(replaced(header, old, new))
        build(Path(name), source, source.read_text() if header else replaced(source, old, new), KERNEL_FLAGS)
        pytest = [sys.executable, "-m", "pytest", "-xq", f"--confcutdir={here}", "-p", "no:cacheprovider", str(here)]
        done = run([*pytest, "-k", f"checked and ({tests})"], {"CARGO_TARGET_DIR": name})
    assert done.returncode in (0, 1) or done.returncode < 0, done.stdout.decode()
    return done.returncode != 0


def host_is_caught(tests, old, new, file="api"):
    source = ROOT / "cuda" / "emu" / "driver" / f"{file}.cpp"
    with tempfile.TemporaryDirectory() as name:
        form, flags = ("plain", []) if tests == PROMPTS else ("check", ["-DEMU_CHECK"])
        library = build(Path(name), source, replaced(source, old, new), flags, form)
        cargo = ["cargo", "test", "--release", "--quiet", "-p", "ferrule-engine", "--test", "cuda", "--", tests]
        done = run(cargo, {"FERRULE_CUDA_EMU": str(library)})
    return done.returncode != 0


def planted():
    """Each bug's place, what it is, and what finds out whether tests catch it."""
    for file, tests, what, old, new in MUTANTS:
        yield file, what, partial(kernel_is_caught, file, tests, old, new)
    for file, tests, what, old, new in HEADER_MUTANTS:
        yield f"simt in {file}", what, partial(kernel_is_caught, file, tests, old, new, ROOT / "cuda" / "simt.cuh")
    for tests, what, old, new in HOST_MUTANTS:
        yield "host", what, partial(host_is_caught, tests, old, new)
    for tests, what, old, new in BLAS_MUTANTS:
        yield "cublaslt", what, partial(host_is_caught, tests, old, new, "cublaslt")


def main():
    """Arguments: parts of what mutants are called; none: all of them."""
    file, tests, _, old, _ = MUTANTS[0]
    assert not kernel_is_caught(file, tests, old, old), "the kernels' tests fail without a bug"
    for tests in sorted({tests for tests, *_ in HOST_MUTANTS + BLAS_MUTANTS}):
        assert not host_is_caught(tests, LAUNCH, LAUNCH), f"{tests} fails without a bug"
    mutants = [mutant for mutant in planted() if all(word in f"{mutant[0]}: {mutant[1]}" for word in sys.argv[1:])]
    survivors = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for (place, what, _), caught in zip(mutants, pool.map(lambda mutant: mutant[2](), mutants), strict=True):
            survivors += not caught
            print(f"{'caught' if caught else 'SURVIVED':9} {place}: {what}", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} caught")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
