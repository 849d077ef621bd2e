"""How fast kernels are on a GPU, beside what its memory allows. `make gpu-test` runs it at the end."""

import sys

import numpy as np
import traffic
from gpu import Gpu, NoGpu
from weights import Bf16Weights, F16Weights, Int4Weights, Int8Weights

MEMORY_CLOCK_KHZ, BUS_BITS = 36, 37
# Shares of the memory's bandwidth to reach: FlashInfer's and Marlin's class of kernels.
ATTENTION_TARGET, PRODUCT_TARGET, NORM_TARGET = 0.85, 0.8, 0.8
TIMES = 50

# What, its arguments as in `traffic.CASES` (which has small ones), and the share to reach.
CASES = {
    "decode attention, 2 sequences of 32768, 8 queries a KV head": (
        traffic.decode,
        128,
        8,
        32768,
        16,
        ATTENTION_TARGET,
    ),
    "product of 1 row with 4 bits, 4096 x 4096": (traffic.skinny, Int4Weights, 1, 4096, 4096, 1, PRODUCT_TARGET),
    "product of 1 row with 4 bits, 28672 x 4096": (traffic.skinny, Int4Weights, 1, 28672, 4096, 8, PRODUCT_TARGET),
    "product of 8 rows with 4 bits, 28672 x 4096": (traffic.skinny, Int4Weights, 8, 28672, 4096, 8, PRODUCT_TARGET),
    "product of 1 row with 8 bits, 28672 x 4096": (traffic.skinny, Int8Weights, 1, 28672, 4096, 4, PRODUCT_TARGET),
    "product of 1 row with bf16, 28672 x 4096": (traffic.skinny, Bf16Weights, 1, 28672, 4096, 2, PRODUCT_TARGET),
    "product of 1 row with f16, 28672 x 4096": (traffic.skinny, F16Weights, 1, 28672, 4096, 2, PRODUCT_TARGET),
    "add and norm, 8192 rows of 4096": (traffic.norm, 4096, 8192, NORM_TARGET),
}
PRODUCTS = {
    "product of 4096 rows with bf16, 4096 x 4096": (traffic.gemm, Bf16Weights, 4096, 4096, 4096),
    "product of 4096 rows with f16, 4096 x 4096": (traffic.gemm, F16Weights, 4096, 4096, 4096),
    "product of 4096 rows with 4 bits, 4096 x 4096": (traffic.gemm, Int4Weights, 4096, 4096, 4096),
}


class Recorder:
    """Launches of a run, to be made again without what is around them."""

    def __init__(self, gpu):
        self.gpu, self.launches = gpu, []

    def __getattr__(self, name):
        return getattr(self.gpu, name)

    def launch(self, *args, **options):
        self.launches.append((args, options))

    def seconds_of(self, case):
        make, *args = case
        self.gpu.reset()
        run, least = make(self, np.random.default_rng(7), *args)
        self.launches.clear()
        run()

        def again():
            for args, options in self.launches:
                self.gpu.start(*args, **options)

        return self.gpu.seconds(again, TIMES), least


def main():
    try:
        gpu = Gpu()
    except NoGpu as reason:
        print(f"skipped: {reason}")
        return
    bandwidth = 2 * gpu.attribute(MEMORY_CLOCK_KHZ) * 1e3 * gpu.attribute(BUS_BITS) / 8
    print(f"{gpu.name} ({gpu.architecture}), {bandwidth / 1e9:.0f} GB/s by its clock and bus")
    recorder, missed = Recorder(gpu), 0
    for name, (*case, target) in CASES.items():
        seconds, least = recorder.seconds_of(case)
        share = least / seconds / bandwidth
        missed += share < target
        print(
            f"{name:70s} {seconds * 1e6:9.1f} us {least / seconds / 1e9:7.0f} GB/s {share:6.1%} (target {target:.0%})"
        )
    for name, case in PRODUCTS.items():
        seconds, _ = recorder.seconds_of(case)
        _, _, m, n, k = case
        print(f"{name:70s} {seconds * 1e6:9.1f} us {2 * m * n * k / seconds / 1e12:7.1f} TFLOP/s")
    print(f"{len(CASES) - missed} of {len(CASES)} targets reached")


if __name__ == "__main__":
    sys.exit(main())
