"""Writes docs/cuda-evidence.md: what is known of the kernels without a GPU. `make evidence` runs it."""

import sys
from dataclasses import dataclass

import cubins
import traffic
from emulator import DYNAMIC_SHARED, ROOT, Emulator

PATH = ROOT / "docs" / "cuda-evidence.md"


@dataclass(frozen=True)
class Gpu:
    """Published figures of the SXM boards."""

    name: str
    bytes_per_s: float
    multiprocessors: int
    clock: float
    bf16_flops: float


GPUS = [
    Gpu("A100 80GB", 2.04e12, 108, 1.41e9, 312e12),
    Gpu("H100", 3.35e12, 132, 1.755e9, 989e12),
    Gpu("B200", 8.0e12, 148, 1.85e9, 2250e12),
]
# Warp instructions that a multiprocessor issues in a cycle.
ISSUED = 4
# Of the published rate of products, what mma.sync reaches on later architectures than sm_80: an assumption.
MMA_SHARE = {"A100 80GB": 1.0, "H100": 0.62, "B200": 0.5}
FLOPS_OF_MMA = 16 * 8 * 16 * 2

# Loops by kernel: bytes of global memory that a warp reads in one turn.
LOOPS = {
    "ferrule_decode_attention_d64": 2 * 16 * 64 * 2,
    "ferrule_decode_attention_d128": 2 * 16 * 128 * 2,
    "ferrule_decode_attention_d256": 2 * 16 * 256 * 2,
    "ferrule_decode_attention_int8_d128": 2 * 16 * (128 + 4),
    "ferrule_decode_attention_fp8_d128": 2 * 16 * 128,
    "ferrule_skinny_gemm_m8": 16 * 128 * 2,
    "ferrule_skinny_gemm_f16_m8": 16 * 128 * 2,
    "ferrule_skinny_gemm_int8_m8": 16 * (128 + 4 * 2),
    "ferrule_skinny_gemm_int4_m8": 16 * (64 + 2 + 1),
    "ferrule_skinny_gemm_int4_min_m8": 16 * (64 + 4 * 4),
    "ferrule_skinny_gemm_int8_min_m8": 16 * (128 + 8 * 4),
    "ferrule_skinny_gemm_mxfp4_m8": 16 * (64 + 4),
    "ferrule_skinny_gemm_wide_m8": 2 * 16 * 128 * 2,
    "ferrule_skinny_gemm_f16_wide_m8": 2 * 16 * 128 * 2,
    "ferrule_skinny_gemm_int8_wide_m8": 4 * 16 * (128 + 4 * 2),
    "ferrule_skinny_gemm_int4_wide_m8": 8 * 16 * (64 + 2 + 1),
    "ferrule_skinny_gemm_int4_min_wide_m8": 8 * 16 * (64 + 4 * 4),
    "ferrule_skinny_gemm_int8_min_wide_m8": 4 * 16 * (128 + 8 * 4),
    "ferrule_skinny_gemm_mxfp4_wide_m8": 8 * 16 * (64 + 4),
    "ferrule_skinny_gemm_int4_wide_m16": 16 * 16 * (64 + 2 + 1),
    "ferrule_skinny_gemm_int4_wide_m32": 8 * 16 * (64 + 2 + 1),
    "ferrule_grouped_skinny_gemm_int4_m8": 16 * (64 + 2 + 1),
    "ferrule_grouped_skinny_gemm_int4_wide_m8": 8 * 16 * (64 + 2 + 1),
}
# Loops that are to be bound by products: those of a warp in one turn.
PRODUCT_LOOPS = [
    "ferrule_prefill_attention_d64",
    "ferrule_prefill_attention_d128",
    "ferrule_prefill_attention_d256",
    "ferrule_prefill_attention_int8_d128",
    "ferrule_gemm",
    "ferrule_gemm_f16",
    "ferrule_gemm_int8",
    "ferrule_gemm_int4",
    "ferrule_gemm_int4_min",
    "ferrule_gemm_mxfp4",
]


def table(*rows):
    head, *body = [[str(cell) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def all_resources(architecture):
    return {name: used for path in cubins.KERNELS for name, used in cubins.resources(path, architecture).items()}


def short(name):
    return f"`{name.removeprefix('ferrule_')}`"


def warps(emulator, architecture, name, used):
    """Of a kernel, on a multiprocessor at a time."""
    threads = emulator.library.emu_max_threads(name.encode())
    return cubins.warps(architecture, used, threads, DYNAMIC_SHARED.get(name, 0))


def occupancy():
    by_architecture = {architecture: all_resources(architecture) for architecture in cubins.ARCHITECTURES}
    emulator = Emulator("libcuda_emu.so")
    rows = [["kernel", "shared bytes", *cubins.ARCHITECTURES]]
    for name, used in sorted(by_architecture["sm_80"].items()):
        cells = []
        for architecture, kernels in by_architecture.items():
            found = kernels[name]
            cells.append(f"{found.registers} / {warps(emulator, architecture, name, found)}")
        rows.append([short(name), used.shared + DYNAMIC_SHARED.get(name, 0), *cells])
    return table(*rows)


def loops(architecture):
    """Of each kernel the loop that its time is spent in."""
    found = {}
    for path in cubins.KERNELS:
        code = cubins.machine_code(cubins.compile_kernels(path, architecture)[0])
        found |= {name: cubins.hot_loop(*instructions) for name, instructions in code.items()}
    return found


def loads(loop):
    return (
        cubins.count(loop, r"LDG(?!STS)\S*\.128"),
        cubins.count(loop, "LDGSTS"),
        cubins.count(loop, r"LDG(?!STS)(?!\S*\.128)"),
    )


def loop_table(found):
    rows = [["kernel", "instructions", "products (HMMA)", "LDG.128", "LDGSTS.128", "smaller loads"]]
    for name in [*LOOPS, *PRODUCT_LOOPS]:
        loop = found[name]
        rows.append([short(name), len(loop), cubins.count(loop, "HMMA"), *loads(loop)])
    return table(*rows)


def traffic_table():
    gpu = Emulator("libcuda_emu_check.so")
    rows = [["what", "touched / least", "asked for / least", "sectors used", "wavefronts / least"]]
    for name in traffic.CASES:
        found, least = traffic.measure_case(gpu, name)
        ratios = f"{found.unique / least:.3f}", f"{found.requested / least:.2f}"
        rows.append([name, *ratios, f"{found.sector_efficiency:.0%}", f"{found.bank_conflicts:.2f}"])
    return table(*rows)


def memory_table(found):
    rows = [
        ["kernel", "bytes a turn", *(f"{gpu.name}: memory / issue / products, ps" for gpu in GPUS), "bound on H100"]
    ]
    for name, num_bytes in LOOPS.items():
        loop, cells = found[name], []
        for gpu in GPUS:
            issue = len(loop) / (gpu.multiprocessors * gpu.clock * ISSUED)
            products = cubins.count(loop, "HMMA") * FLOPS_OF_MMA / (gpu.bf16_flops * MMA_SHARE[gpu.name])
            times = num_bytes / gpu.bytes_per_s, issue, products
            cells.append(" / ".join(f"{time * 1e12:.0f}" for time in times))
        share = bandwidth_share(GPUS[1], loop, num_bytes)
        rows.append([short(name), num_bytes, *cells, f"{share:.0%} of the bandwidth"])
    return table(*rows)


def product_rate(gpu, loop):
    """What a loop's instructions and products allow, in TFLOP/s."""
    products = cubins.count(loop, "HMMA")
    issue = gpu.multiprocessors * gpu.clock * ISSUED / len(loop) * products * FLOPS_OF_MMA
    return min(issue, gpu.bf16_flops * MMA_SHARE[gpu.name]) / 1e12


def bandwidth_share(gpu, loop, num_bytes):
    """The share of the memory's bandwidth that a loop can take."""
    issue = len(loop) / (gpu.multiprocessors * gpu.clock * ISSUED)
    products = cubins.count(loop, "HMMA") * FLOPS_OF_MMA / (gpu.bf16_flops * MMA_SHARE[gpu.name])
    memory = num_bytes / gpu.bytes_per_s
    return memory / max(memory, issue, products)


def published_table(found):
    """The estimates beside what others have published."""

    def rates(name):
        rates = [(product_rate(gpu, found[name]), gpu.bf16_flops / 1e12) for gpu in GPUS]
        return [f"{rate:.0f} TFLOP/s, {rate / peak:.0%}" for rate, peak in rates]

    def shares(name):
        return [f"{bandwidth_share(gpu, found[name], LOOPS[name]):.0%} of the bandwidth" for gpu in GPUS]

    # Bytes of bf16 weights over those of codes, scales and zero points, as far as the loop can ask for them.
    fewer = 16 / (4 + 24 / 128)
    int4 = "ferrule_skinny_gemm_int4_wide_m8"
    times = [f"{fewer * bandwidth_share(gpu, found[int4], LOOPS[int4]):.2f} times bf16" for gpu in GPUS]
    return table(
        ["what", *(f"{gpu.name}, estimate" for gpu in GPUS), "published"],
        [
            "prefill attention, heads of 128",
            *rates("ferrule_prefill_attention_d128"),
            "H100: FlashAttention-2 about 35 %, FlashAttention-3 up to 740 TFLOP/s, 75 % (Shah et al. 2024)",
        ],
        [
            "decode attention, heads of 128",
            *shares("ferrule_decode_attention_d128"),
            "FlashInfer: close to 100 % for long sequences without groups of heads, on A100 too (its announcement of "
            "February 2024); B200: 5831 GB/s, 73 %, 128 sequences of 4096, 8 queries a KV head of 64 (its pull request "
            "1415)",
        ],
        [
            "4 bits in groups of 128, few rows",
            *times,
            "Marlin (Frantar et al. 2024): 3.87 times up to batches of 16 to 32",
        ],
    )


def product_table(found):
    rows = [["kernel", "products a turn", "instructions", *(f"{gpu.name}, TFLOP/s" for gpu in GPUS)]]
    for name in PRODUCT_LOOPS:
        loop, cells = found[name], []
        products = cubins.count(loop, "HMMA")
        cells.extend(f"{product_rate(gpu, loop):.0f}" for gpu in GPUS)
        rows.append([short(name), products, len(loop), *cells])
    return table(*rows)


# Bytes of products and of attention as large as models have them.
def workload_table():
    def int4(n, k):
        return n * k / 2 + n * k / 128 * 3

    cases = {
        "decode attention of a layer, 32 sequences of 4096 positions, 8 KV heads of 128": 32 * 4096 * 8 * 128 * 4,
        "the same, one sequence": 4096 * 8 * 128 * 4,
        "product of 4 bits in groups of 128, 4096 x 4096": int4(4096, 4096),
        "product of 4 bits in groups of 128, 28672 x 4096": int4(28672, 4096),
        "product of bf16, 4096 x 4096": 4096 * 4096 * 2,
    }
    rows = [["what", "MB", *(f"{gpu.name}, us" for gpu in GPUS)]]
    for name, num_bytes in cases.items():
        rows.append([name, f"{num_bytes / 1e6:.1f}", *(f"{num_bytes / gpu.bytes_per_s * 1e6:.1f}" for gpu in GPUS)])
    return table(*rows)


def report():
    found = loops("sm_90")
    return f"""# What is known of the CUDA kernels without a GPU

`make evidence` writes this page: the kernels compiled by NVRTC {cubins.nvrtc_version()} for six architectures, and
their accesses counted in the emulator. A test compares it with what it would be now. **Nothing here was measured on a
GPU**: times are what published figures of the boards allow.

## Registers and occupancy
Registers of a thread / warps that run on a multiprocessor at a time. No kernel has a stack or spills anywhere.

{occupancy()}

## Hot loops, on sm_90
Instructions of one turn of the innermost loop with the products.

{loop_table(found)}

## Traffic
Bytes of the 32-byte sectors that were touched, and of those that warps asked for, over the fewest that the shapes allow
(what is asked for twice comes from a cache); of the worst place with at least 5 % of the requests, how much of its
sectors was used, and the wavefronts of shared memory over the fewest.

{traffic_table()}

Tests hold the first ratio to 1.05, and the second one to 1.3 but in {len(traffic.ASKED_AGAIN)} rows. A block of the
kernels for few rows asks for all of x: once for its 16 columns of the output or, in wide kernels, its 32 to 256, as
many as leave multiprocessors with work. With few columns it has 64 of them, or (*few columns*) 16; with up to 8 rows
it has 128 or 16. In the widest blocks of 4 bits, x is a fourth of the weights with 8 or 16 rows, and as much as they
with 32: registers hold the sums of 256 columns of 16 rows, or of 128 of 32 rows. Tiles of 128 x 128 (*256 rows*) and of
64 queries (prefill) ask for their factors once per tile, as every product in tiles does: the memory's rate is not what
bounds them.

## Roofline estimate
A turn of a loop takes as long as the slowest of its bytes (all multiprocessors share the memory), its instructions
({ISSUED} a cycle and multiprocessor) and its products (mma.sync at {MMA_SHARE["H100"]:.0%} of the published rate on
H100 and {MMA_SHARE["B200"]:.0%} on B200: assumptions).

{memory_table(found)}

What limits loops of many products, were their data always there:

{product_table(found)}

What the boards' memory allows at best:

{workload_table()}

## Beside published figures of others
Estimates are the bounds above, not measurements. FlashAttention-3 uses instructions that only sm_90 has, and that
these kernels do not use. Marlin's scales are f16 without zero points; here are 8-bit zero points besides.

{published_table(found)}
"""


if __name__ == "__main__":
    if missing := [
        name for name, found in (("nvrtc", cubins.nvrtc()), ("nvdisasm", cubins.tool("nvdisasm"))) if not found
    ]:
        sys.exit(f"missing: {', '.join(missing)} (pip install nvidia-cuda-nvrtc nvidia-cuda-nvdisasm)")
    PATH.write_text(report())
