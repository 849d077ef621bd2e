// What the warp's instructions do with fragments, for tests that compare the emulator with a GPU and with the PTX manual.
// One warp. Each input is (32, ...) or a shared tile that a lane fills.
#include "simt.cuh"

// a (32, 4), b (32, 2), d (32, 4): added to.
template <class Number>
DEVICE void probe_mma(const uint32_t* a, const uint32_t* b, float* d) {
    const int lane = threadIdx.x;
    uint32_t first[4];
    float sums[4];
    for (int i = 0; i < 4; ++i) first[i] = a[lane * 4 + i], sums[i] = d[lane * 4 + i];
    Factors<Number>::mma(sums, first, b[lane * 2], b[lane * 2 + 1]);
    for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sums[i];
}
KERNEL(ferrule_probe_mma_bf16, (32), const uint32_t* a, const uint32_t* b, float* d) { probe_mma<bf16>(a, b, d); }
KERNEL(ferrule_probe_mma_f16, (32), const uint32_t* a, const uint32_t* b, float* d) { probe_mma<f16>(a, b, d); }

KERNEL(ferrule_probe_ldmatrix, (32),
       const uint4* rows,     // (32,): lane l's row of 8 elements
       uint32_t* plain,       // (32, 4)
       uint32_t* transposed)  // (32, 4)
{
    SHARED(uint4, tile, [32]);
    const int lane = threadIdx.x;
    store16(tile + lane, load16(rows + lane));
    __syncwarp();
    uint32_t r[4];
    ldmatrix_x4(r, tile + lane);
    for (int i = 0; i < 4; ++i) plain[lane * 4 + i] = r[i];
    ldmatrix_x4_trans(r, tile + lane);
    for (int i = 0; i < 4; ++i) transposed[lane * 4 + i] = r[i];
}

KERNEL(ferrule_probe_lanes, (32),
       const uint32_t* x,  // (32,)
       uint32_t* out) {    // (8, 32): shuffles by index, xor, up and down, ballot, bytes, and_or, pair of bf16
    const int lane = threadIdx.x;
    const uint32_t mine = x[lane];
    out[lane] = __shfl_sync(ALL_LANES, mine, (lane * 5 + 3) % 32);
    out[32 + lane] = __shfl_xor_sync(ALL_LANES, mine, 5);
    out[64 + lane] = __shfl_up_sync(ALL_LANES, mine, 3);
    out[96 + lane] = __shfl_down_sync(ALL_LANES, mine, 3);
    out[128 + lane] = __ballot_sync(ALL_LANES, mine & 1);
    out[160 + lane] = __byte_perm(mine, ~mine, 0x7250);
    out[192 + lane] = and_or(mine, 0x0ff00ff0u, 0x43004300u);
    out[224 + lane] = pack_bf16x2(__uint_as_float(mine & 0xbfffffffu), 1.f);
}

KERNEL(ferrule_probe_pairs, (32),
       const uint32_t* x,     // (32, 3): pairs of bf16
       uint32_t* products,    // (32,): x[0] * x[1] + x[2]
       float* halves,         // (32,): the low 16 bits of x[0] as an f16
       uint32_t* narrowed) {  // (32,): x[0] as a pair of f16
    const int lane = threadIdx.x;
    products[lane] = fma_bf16x2(x[lane * 3], x[lane * 3 + 1], x[lane * 3 + 2]);
    halves[lane] = f16_to_float((uint16_t)x[lane * 3]);
    narrowed[lane] = pack_f16x2(bf16_lo(x[lane * 3]), bf16_hi(x[lane * 3]));
}

KERNEL(ferrule_probe_approximate, (32),
       const float* x,  // (32,)
       float* out) {    // (3, 32): 2^x, 1 / x, 1 / sqrt(|x|)
    const int lane = threadIdx.x;
    out[lane] = fast_exp2(x[lane]);
    out[32 + lane] = fast_rcp(x[lane]);
    out[64 + lane] = rsqrtf(x[lane] < 0.f ? -x[lane] : x[lane]);
}
