// out (m, n) = x (m, k) . weight (n, k)^T for few rows: the time is that of reading the weights, once.
//
// A block makes 16 columns of out, one warp per part of k (see PARTS). The weight's rows are the mma's 16 rows, x's rows its
// 8 columns. A lane's 16 bytes of x are 8 neighbours in k, which serve as the two pairs of two products: k is permuted
// alike in both operands, so sums do not change. Quantized weights lie as lanes want them: see README.md.
#include "simt.cuh"

constexpr int STEP = 64;  // in k

// Operands of the four products of a step: for 32 of k each, the pairs 8 t + 0..3 and 8 t + 4..7 of rows g and g + 8.
struct Fragments {
    uint32_t a[4][4];
};
DEVICE void set_rows(uint32_t (&first)[4], uint32_t (&second)[4], int half, const uint32_t (&pairs)[4]) {
    first[half] = pairs[0], first[half + 2] = pairs[1];
    second[half] = pairs[2], second[half + 2] = pairs[3];
}

struct Bf16Weights {
    const bf16* weight;  // (n, k)
    int n, k;

    DEVICE Fragments load(const Bf16Weights& w, int panel, int at) {
        const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        Fragments f;
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int step = 0; step < 2; ++step) {
                const int row = panel * 16 + half * 8 + g, column = at + step * 32 + t * 8;
                uint4 v = {0, 0, 0, 0};
                if (row < w.n && column < w.k) v = load16_streamed(w.weight + (int64_t)row * w.k + column);
                const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
                set_rows(f.a[2 * step], f.a[2 * step + 1], half, pairs);
            }
        return f;
    }
};

struct Int4Weights {
    const uint32_t* codes;   // (panels, ceil(k / 64), 32 lanes, 4)
    const uint32_t* scales;  // (panels, groups, 8): f16 of rows g and g + 8
    const uint16_t* zeros;   // (panels, groups, 8): bytes of rows g and g + 8; null: 8
    int blocks, groups, group_shift;

    DEVICE Fragments load(const Int4Weights& w, int panel, int at) {
        const int lane = threadIdx.x % 32, g = lane / 4;
        const uint4 v = load16_streamed(w.codes + (((int64_t)panel * w.blocks + at / 64) * 32 + lane) * 4);
        const uint32_t codes[4] = {v.x, v.y, v.z, v.w};
        Fragments f;
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            const int group = min((at + step * 32) >> w.group_shift, w.groups - 1);
            const int64_t place = ((int64_t)panel * w.groups + group) * 8 + g;
            const uint32_t scales = w.scales[place], zeros = w.zeros ? w.zeros[place] : 0x0808u;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                uint32_t pairs[4];
                dequantize_int4(pairs, codes[2 * step + half], minus_zero_int4(zeros >> 8 * half & 255),
                                split_scale((uint16_t)(scales >> 16 * half)));
                set_rows(f.a[2 * step], f.a[2 * step + 1], half, pairs);
            }
        }
        return f;
    }
};

struct Int8Weights {
    const uint32_t* codes;   // (panels, ceil(k / 32), 32 lanes, 4)
    const uint32_t* scales;  // (panels, groups, 8): f16 of rows g and g + 8
    int blocks, groups, group_shift;

    DEVICE Fragments load(const Int8Weights& w, int panel, int at) {
        const int lane = threadIdx.x % 32, g = lane / 4;
        Fragments f;
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            const int block = at / 32 + step, group = min((at + step * 32) >> w.group_shift, w.groups - 1);
            uint4 v = {0, 0, 0, 0};
            if (block < w.blocks) v = load16_streamed(w.codes + (((int64_t)panel * w.blocks + block) * 32 + lane) * 4);
            const uint32_t codes[2][2] = {{v.x, v.y}, {v.z, v.w}};
            const uint32_t scales = w.scales[((int64_t)panel * w.groups + group) * 8 + g];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const SplitScale scale = split_scale((uint16_t)(scales >> 16 * half));
                uint32_t pairs[4];
                dequantize_int8(pairs[0], pairs[1], codes[half][0], scale);
                dequantize_int8(pairs[2], pairs[3], codes[half][1], scale);
                set_rows(f.a[2 * step], f.a[2 * step + 1], half, pairs);
            }
        }
        return f;
    }
};

template <int TILES, class Weights, class Out>
DEVICE void skinny_gemm(const bf16* x, const Weights& weights, Out* out, int m, int n, int k) {
    SHARED(float, sums, [PARTS][16][TILES * 8 + 1]);  // (part, column of out, row of out)
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int begin = warp * part_len(k), end = min(begin + part_len(k), k);
    const uint4 zero = {0, 0, 0, 0};
    float acc[TILES][4] = {};
#pragma unroll 2
    for (int at = begin; at < end; at += STEP) {
        const Fragments f = Weights::load(weights, blockIdx.x, at);
#pragma unroll
        for (int step = 0; step < 2; ++step)
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                const int row = tile * 8 + g, column = at + step * 32 + t * 8;
                const uint4 b = row < m && column < k ? load16(x + (int64_t)row * k + column) : zero;
                mma_bf16(acc[tile], f.a[2 * step], b.x, b.y);
                mma_bf16(acc[tile], f.a[2 * step + 1], b.z, b.w);
            }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[warp][g + i / 2 * 8][tile * 8 + 2 * t + i % 2] = acc[tile][i];
    __syncthreads();
    for (int i = threadIdx.x; i < TILES * 8 * 16; i += PARTS * 32) {
        const int row = i / 16, column = i % 16;
        if (row >= m || (int)blockIdx.x * 16 + column >= n) continue;
        float sum = 0.f;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) sum += sums[part][column][row];
        store_one(out + (int64_t)row * n + blockIdx.x * 16 + column, sum);
    }
}

#define SKINNY_GEMM(rows, tiles, kind, Out)                                                                        \
    KERNEL(ferrule_skinny_gemm##kind##_m##rows, (256), const bf16* x, const bf16* weight, Out* out, int m, int n,  \
           int k) {                                                                                                \
        skinny_gemm<tiles>(x, Bf16Weights{weight, n, k}, out, m, n, k);                                            \
    }                                                                                                              \
    KERNEL(ferrule_skinny_gemm_int4##kind##_m##rows, (256), const bf16* x, const uint32_t* codes,                  \
           const uint32_t* scales, const uint16_t* zeros, Out* out, int m, int n, int k, int group_shift) {        \
        const int groups = (k + (1 << group_shift) - 1) >> group_shift;                                            \
        skinny_gemm<tiles>(x, Int4Weights{codes, scales, zeros, (k + 63) / 64, groups, group_shift}, out, m, n, k); \
    }                                                                                                              \
    KERNEL(ferrule_skinny_gemm_int8##kind##_m##rows, (256), const bf16* x, const uint32_t* codes,                  \
           const uint32_t* scales, Out* out, int m, int n, int k, int group_shift) {                               \
        const int groups = (k + (1 << group_shift) - 1) >> group_shift;                                            \
        skinny_gemm<tiles>(x, Int8Weights{codes, scales, (k + 31) / 32, groups, group_shift}, out, m, n, k);       \
    }
SKINNY_GEMM(8, 1, , bf16)
SKINNY_GEMM(16, 2, , bf16)
SKINNY_GEMM(32, 4, , bf16)
SKINNY_GEMM(8, 1, _f32, float)
SKINNY_GEMM(16, 2, _f32, float)
SKINNY_GEMM(32, 4, _f32, float)
