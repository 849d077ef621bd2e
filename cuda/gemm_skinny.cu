// out (m, n) = x (m, k) . weight (n, k)^T for few rows: the time is that of reading the weights, once.
//
// A block makes 16 columns of out, one warp per part of k (see PARTS). The weight's rows are the mma's 16 rows, x's rows its
// 8 columns. A lane's 16 bytes of x are 8 neighbours in k, which serve as the two pairs of two products: k is permuted
// alike in both operands, so sums do not change. Quantized weights lie as lanes want them: see README.md.
#include "simt.cuh"

constexpr int BLOCK_K = 128, STEPS = BLOCK_K / 32;

// First operands of the two products of a step of 32 in k: the pairs 8 t + 0..3 and 8 t + 4..7 of rows g and g + 8.
struct Fragments {
    uint32_t first[4], second[4];

    DEVICE void set_row(Fragments& f, int half, const uint32_t (&pairs)[4]) {
        f.first[half] = pairs[0], f.first[half + 2] = pairs[1];
        f.second[half] = pairs[2], f.second[half + 2] = pairs[3];
    }
};

// Whether a group begins at a step: else it is the one of the step before.
DEVICE bool begins(int step, int group_shift) { return step == 0 || (step * 32 & ((1 << group_shift) - 1)) == 0; }

// Each kind of weights: where a lane's part of a panel begins (`at_panel`), what the lane loads of BLOCK_K columns, all at
// once, and what a step makes of it. Offsets within a panel have 32 bits.

struct Bf16Weights {
    const bf16* weight;  // (n, k)
    int n, k;            // at a panel: rows and columns from the lane's first on

    struct Loaded {
        uint4 rows[STEPS][2];
    };
    struct Factors {};
    DEVICE Bf16Weights at_panel(Bf16Weights w, int panel) {
        const int lane = threadIdx.x % 32, row = panel * 16 + lane / 4, column = lane % 4 * 8;
        return Bf16Weights{w.weight + (int64_t)row * w.k + column, w.n - row, w.k - column};
    }
    DEVICE Loaded load(const Bf16Weights& w, int at) {
        Loaded l;
#pragma unroll
        for (int step = 0; step < STEPS; ++step)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const bool inside = half * 8 < w.n && at + step * 32 < w.k;
                const bf16* from = w.weight + (half ? (int64_t)8 * (w.k + threadIdx.x % 4 * 8) : 0) + at + step * 32;
                l.rows[step][half] = inside ? load16_streamed(from) : uint4{0, 0, 0, 0};
            }
        return l;
    }
    DEVICE Fragments fragments(const Bf16Weights&, const Loaded& l, int step, Factors&) {
        Fragments f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const uint4 v = l.rows[step][half];
            const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
            Fragments::set_row(f, half, pairs);
        }
        return f;
    }
};

struct Int4Weights {
    const uint32_t* codes;   // (panels, ceil(k / 64), 32 lanes, 4)
    const uint32_t* scales;  // (panels, groups, 8): f16 of rows g and g + 8
    const uint16_t* zeros;   // (panels, groups, 8): bytes of rows g and g + 8; null: 8
    int blocks, groups, group_shift;

    struct Loaded {
        uint4 codes[STEPS / 2];
        uint32_t scales[STEPS], zeros[STEPS];
    };
    // Of the group at hand, by row.
    struct Factors {
        SplitScale scale[2];
        uint32_t minus_zero[2];
    };
    DEVICE Int4Weights at_panel(Int4Weights w, int panel) {
        const int lane = threadIdx.x % 32;
        const int64_t factors = (int64_t)panel * w.groups * 8 + lane / 4;
        w.codes += ((int64_t)panel * w.blocks * 32 + lane) * 4;
        w.scales += factors;
        if (w.zeros) w.zeros += factors;
        return w;
    }
    DEVICE Loaded load(const Int4Weights& w, int at) {
        Loaded l;
#pragma unroll
        for (int i = 0; i < STEPS / 2; ++i)
            l.codes[i] = at / 64 + i < w.blocks ? load16_streamed(w.codes + at * 2 + i * 128) : uint4{0, 0, 0, 0};
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (!begins(step, w.group_shift)) continue;
            const int group = min((at + step * 32) >> w.group_shift, w.groups - 1);
            l.scales[step] = w.scales[group * 8];
            l.zeros[step] = w.zeros ? w.zeros[group * 8] : 0x0808u;
        }
        return l;
    }
    DEVICE Fragments fragments(const Int4Weights& w, const Loaded& l, int step, Factors& factors) {
        const uint4 v = l.codes[step / 2];
        const uint32_t codes[2] = {step % 2 ? v.z : v.x, step % 2 ? v.w : v.y};
        if (begins(step, w.group_shift)) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                factors.scale[half] = split_scale((uint16_t)(l.scales[step] >> 16 * half));
                factors.minus_zero[half] = minus_zero_int4(l.zeros[step] >> 8 * half & 255);
            }
        }
        Fragments f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t pairs[4];
            dequantize_int4(pairs, codes[half], factors.minus_zero[half], factors.scale[half]);
            Fragments::set_row(f, half, pairs);
        }
        return f;
    }
};

struct Mxfp4Weights {
    const uint32_t* codes;      // as Int4Weights'
    const uint16_t* exponents;  // (panels, groups, 8): bytes of rows g and g + 8
    int blocks, groups;

    struct Loaded {
        uint4 codes[STEPS / 2];
        uint32_t exponents;  // of step t: a warp reads whole sectors, and lanes of a row tell each other
    };
    struct Factors {};
    DEVICE Mxfp4Weights at_panel(Mxfp4Weights w, int panel) {
        const int lane = threadIdx.x % 32;
        w.codes += ((int64_t)panel * w.blocks * 32 + lane) * 4;
        w.exponents += (int64_t)panel * w.groups * 8 + lane / 4;
        return w;
    }
    DEVICE Loaded load(const Mxfp4Weights& w, int at) {
        Loaded l;
#pragma unroll
        for (int i = 0; i < STEPS / 2; ++i)
            l.codes[i] = at / 64 + i < w.blocks ? load16_streamed(w.codes + at * 2 + i * 128) : uint4{0, 0, 0, 0};
        l.exponents = w.exponents[min(at / 32 + (int)threadIdx.x % STEPS, w.groups - 1) * 8];
        return l;
    }
    DEVICE Fragments fragments(const Mxfp4Weights&, const Loaded& l, int step, Factors&) {
        const uint4 v = l.codes[step / 2];
        const uint32_t numbers[2] = {step % 2 ? v.z : v.x, step % 2 ? v.w : v.y};
        const uint32_t exponents = __shfl_sync(ALL_LANES, l.exponents, (threadIdx.x % 32 & ~3) + step);
        Fragments f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t pairs[4];
            dequantize_mxfp4(pairs, numbers[half], scale_mxfp4(exponents >> 8 * half & 255));
            Fragments::set_row(f, half, pairs);
        }
        return f;
    }
};

struct Int8Weights {
    const uint32_t* codes;   // (panels, ceil(k / 32), 32 lanes, 4)
    const uint32_t* scales;  // (panels, groups, 8): f16 of rows g and g + 8
    int blocks, groups, group_shift;

    struct Loaded {
        uint4 codes[STEPS];
        uint32_t scales[STEPS];
    };
    struct Factors {
        SplitScale scale[2];
    };
    DEVICE Int8Weights at_panel(Int8Weights w, int panel) {
        const int lane = threadIdx.x % 32;
        w.codes += ((int64_t)panel * w.blocks * 32 + lane) * 4;
        w.scales += (int64_t)panel * w.groups * 8 + lane / 4;
        return w;
    }
    DEVICE Loaded load(const Int8Weights& w, int at) {
        Loaded l;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const bool inside = at / 32 + step < w.blocks;
            l.codes[step] = inside ? load16_streamed(w.codes + at * 4 + step * 128) : uint4{0, 0, 0, 0};
            if (begins(step, w.group_shift))
                l.scales[step] = w.scales[min((at + step * 32) >> w.group_shift, w.groups - 1) * 8];
        }
        return l;
    }
    DEVICE Fragments fragments(const Int8Weights& w, const Loaded& l, int step, Factors& factors) {
        const uint4 v = l.codes[step];
        const uint32_t codes[2][2] = {{v.x, v.y}, {v.z, v.w}};
        if (begins(step, w.group_shift)) {
#pragma unroll
            for (int half = 0; half < 2; ++half)
                factors.scale[half] = split_scale((uint16_t)(l.scales[step] >> 16 * half));
        }
        Fragments f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t pairs[4];
            dequantize_int8(pairs[0], pairs[1], codes[half][0], factors.scale[half]);
            dequantize_int8(pairs[2], pairs[3], codes[half][1], factors.scale[half]);
            Fragments::set_row(f, half, pairs);
        }
        return f;
    }
};

// Codes of 4 or 8 bits with a scale and a minimum for each 16 columns or more.
template <int BITS>
struct LineWeights {
    const uint32_t* codes;  // as Int4Weights' or Int8Weights'
    const uint2* factors;   // (panels, groups, 8): f16 scales of rows g and g + 8, then their minima
    int blocks, groups, group_shift;

    static constexpr int LOADS = BITS == 4 ? STEPS / 2 : STEPS, BLOCK = BITS == 4 ? 64 : 32;
    struct Loaded {
        uint4 codes[LOADS];
        uint2 factors[STEPS];
    };
    struct Factors {
        Line lines[2];
    };
    DEVICE LineWeights at_panel(LineWeights w, int panel) {
        const int lane = threadIdx.x % 32;
        w.codes += ((int64_t)panel * w.blocks * 32 + lane) * 4;
        w.factors += (int64_t)panel * w.groups * 8 + lane / 4;
        return w;
    }
    DEVICE Loaded load(const LineWeights& w, int at) {
        Loaded l;
#pragma unroll
        for (int i = 0; i < LOADS; ++i) {
            const bool inside = at / BLOCK + i < w.blocks;
            l.codes[i] = inside ? load16_streamed(w.codes + at / BLOCK * 128 + i * 128) : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (!begins(step, w.group_shift)) continue;
            // With groups of 16, half of the lanes have the second one of a step.
            const int column = at + step * 32 + threadIdx.x % 4 * 8;
            l.factors[step] = load8(w.factors + min(column >> w.group_shift, w.groups - 1) * 8);
        }
        return l;
    }
    DEVICE Fragments fragments(const LineWeights& w, const Loaded& l, int step, Factors& factors) {
        if (begins(step, w.group_shift)) {
#pragma unroll
            for (int half = 0; half < 2; ++half)
                factors.lines[half] = BITS == 4 ? line_int4(l.factors[step], half) : line_int8(l.factors[step], half);
        }
        Fragments f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t pairs[4];
            if constexpr (BITS == 4) {
                const uint4 v = l.codes[step / 2];
                const uint32_t first = half ? v.y : v.x, second = half ? v.w : v.z;
                dequantize_line_int4(pairs, step % 2 ? second : first, factors.lines[half]);
            } else {
                const uint4 v = l.codes[step];
                dequantize_line_int8(pairs, half ? v.z : v.x, half ? v.w : v.y, factors.lines[half]);
            }
            Fragments::set_row(f, half, pairs);
        }
        return f;
    }
};

// Columns 16 x .. 16 x + 16 of out, x the block's, with the rows of `first_panel` + x.
template <int TILES, class Weights, class Out>
DEVICE void skinny_gemm(const bf16* x, const Weights& weights, Out* out, int m, int n, int k, int first_panel = 0) {
    SHARED(float, sums, [PARTS][TILES * 8][20]);  // (part, row of out, column of out); 20: the lanes of a store meet all banks
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int begin = warp * part_len(k), end = min(begin + part_len(k), k);
    const uint4 zero = {0, 0, 0, 0};
    const Weights panel = Weights::at_panel(weights, first_panel + blockIdx.x);
    x += (int64_t)g * k + t * 8;
    float acc[TILES][4] = {};
    for (int at = begin; at < end; at += BLOCK_K) {
        const auto loaded = Weights::load(panel, at);
        typename Weights::Factors factors;
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            const Fragments f = Weights::fragments(panel, loaded, step, factors);
#pragma unroll
            for (int tile = 0; tile < TILES; ++tile) {
                const bool inside = tile * 8 + g < m && at + step * 32 + t * 8 < k;
                const uint4 b = inside ? load16(x + (int64_t)tile * 8 * k + at + step * 32) : zero;
                mma_bf16(acc[tile], f.first, b.x, b.y);
                mma_bf16(acc[tile], f.second, b.z, b.w);
            }
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[warp][tile * 8 + 2 * t + i % 2][g + i / 2 * 8] = acc[tile][i];
    __syncthreads();
    for (int i = threadIdx.x; i < TILES * 8 * 16; i += PARTS * 32) {
        // A warp reads rows that are 4 apart: these lie in other banks.
        const int row = i / 128 * 8 + i / 32 % 4 + i / 16 % 2 * 4, column = i % 16;
        if (row >= m || (int)blockIdx.x * 16 + column >= n) continue;
        float sum = 0.f;
#pragma unroll
        for (int part = 0; part < PARTS; ++part) sum += sums[part][row][column];
        store_one(out + (int64_t)row * n + blockIdx.x * 16 + column, sum);
    }
}

#define SKINNY_LINE_GEMM(bits, block, rows, tiles, kind, Out)                                                      \
    KERNEL(ferrule_skinny_gemm_int##bits##_min##kind##_m##rows, (256), const bf16* x, const uint32_t* codes,        \
           const uint2* factors, Out* out, int m, int n, int k, int group_shift) {                                 \
        const int groups = (k + (1 << group_shift) - 1) >> group_shift;                                            \
        const LineWeights<bits> weights{codes, factors, (k + block - 1) / block, groups, group_shift};             \
        skinny_gemm<tiles>(x, weights, out, m, n, k);                                                              \
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
    }                                                                                                              \
    KERNEL(ferrule_skinny_gemm_mxfp4##kind##_m##rows, (256), const bf16* x, const uint32_t* codes,                 \
           const uint16_t* exponents, Out* out, int m, int n, int k) {                                             \
        skinny_gemm<tiles>(x, Mxfp4Weights{codes, exponents, (k + 63) / 64, k / 32}, out, m, n, k);                \
    }                                                                                                              \
    SKINNY_LINE_GEMM(4, 64, rows, tiles, kind, Out)                                                                \
    SKINNY_LINE_GEMM(8, 32, rows, tiles, kind, Out)
SKINNY_GEMM(8, 1, , bf16)
SKINNY_GEMM(16, 2, , bf16)
SKINNY_GEMM(32, 4, , bf16)
SKINNY_GEMM(8, 1, _f32, float)
SKINNY_GEMM(16, 2, _f32, float)
SKINNY_GEMM(32, 4, _f32, float)

// The products of experts with their own rows, for few rows each: of expert e = y, rows starts[e] .. starts[e + 1] of x with
// matrix e of the weights, TILES * 8 at a time (the grid's z). Matrices of codes have whole panels.
template <int TILES, class Weights>
DEVICE void grouped_skinny_gemm(const bf16* x, const Weights& weights, const int* starts, bf16* out, int n, int k,
                                int first_panel) {
    const int first = starts[blockIdx.y] + blockIdx.z * TILES * 8, m = min(starts[blockIdx.y + 1] - first, TILES * 8);
    if (m > 0) skinny_gemm<TILES>(x + (int64_t)first * k, weights, out + (int64_t)first * n, m, n, k, first_panel);
}

#define GROUPED_SKINNY_LINE_GEMM(bits, block, rows, tiles)                                                          \
    KERNEL(ferrule_grouped_skinny_gemm_int##bits##_min_m##rows, (256), const bf16* x, const uint32_t* codes,        \
           const uint2* factors, const int* starts, bf16* out, int n, int k, int group_shift) {                     \
        const LineWeights<bits> weights{codes, factors, (k + block - 1) / block, k >> group_shift, group_shift};    \
        grouped_skinny_gemm<tiles>(x, weights, starts, out, n, k, blockIdx.y * gridDim.x);                          \
    }
#define GROUPED_SKINNY_GEMM(rows, tiles)                                                                            \
    KERNEL(ferrule_grouped_skinny_gemm_m##rows, (256), const bf16* x, const bf16* weight, const int* starts,        \
           bf16* out, int n, int k) {                                                                               \
        const Bf16Weights weights{weight + (int64_t)blockIdx.y * n * k, n, k};                                      \
        grouped_skinny_gemm<tiles>(x, weights, starts, out, n, k, 0);                                               \
    }                                                                                                               \
    KERNEL(ferrule_grouped_skinny_gemm_int4_m##rows, (256), const bf16* x, const uint32_t* codes,                   \
           const uint32_t* scales, const uint16_t* zeros, const int* starts, bf16* out, int n, int k,               \
           int group_shift) {                                                                                       \
        const Int4Weights weights{codes, scales, zeros, (k + 63) / 64, k >> group_shift, group_shift};              \
        grouped_skinny_gemm<tiles>(x, weights, starts, out, n, k, blockIdx.y * gridDim.x);                          \
    }                                                                                                               \
    KERNEL(ferrule_grouped_skinny_gemm_int8_m##rows, (256), const bf16* x, const uint32_t* codes,                   \
           const uint32_t* scales, const int* starts, bf16* out, int n, int k, int group_shift) {                   \
        const Int8Weights weights{codes, scales, (k + 31) / 32, k >> group_shift, group_shift};                     \
        grouped_skinny_gemm<tiles>(x, weights, starts, out, n, k, blockIdx.y * gridDim.x);                          \
    }                                                                                                               \
    KERNEL(ferrule_grouped_skinny_gemm_mxfp4_m##rows, (256), const bf16* x, const uint32_t* codes,                  \
           const uint16_t* exponents, const int* starts, bf16* out, int n, int k) {                                 \
        const Mxfp4Weights weights{codes, exponents, (k + 63) / 64, k / 32};                                        \
        grouped_skinny_gemm<tiles>(x, weights, starts, out, n, k, blockIdx.y * gridDim.x);                          \
    }                                                                                                               \
    GROUPED_SKINNY_LINE_GEMM(4, 64, rows, tiles)                                                                    \
    GROUPED_SKINNY_LINE_GEMM(8, 32, rows, tiles)
GROUPED_SKINNY_GEMM(8, 1)
GROUPED_SKINNY_GEMM(32, 4)
