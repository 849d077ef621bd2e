// out (m, n) = x (m, k) . weight (n, k)^T for many rows. A block makes a tile of 128 x 128 with 8 warps (2 x 4, each
// 64 x 32), over stages of 64 in k that cp.async fills ahead. Sums are in the order that simt.cuh says (PARTS).
//
// With few tiles, blocks share the parts of k among them (the grid's z): each part's sum goes to partials, which
// ferrule_sum_parts adds in the same order.
#include "simt.cuh"

constexpr int TILE = 128, STAGE_K = 64, STAGES = 3, THREADS = 256;
constexpr int X_BYTES = TILE * STAGE_K * 2;

// Starts the copy of rows first .. first + 128, columns at .. at + 64 of a matrix (rows, k); zeros outside. The tile is
// (2, 128, 32): a lane's 16 bytes, 8 neighbours in k, lie such that 8 lanes read 128 bytes in a line.
DEVICE void fetch_tile(unsigned char* tile, const bf16* matrix, int first, int rows, int at, int k) {
#pragma unroll
    for (int turn = 0; turn < TILE * 8 / THREADS; ++turn) {
        const int i = turn * THREADS + threadIdx.x;
        const int step = i / 4 / TILE, row = i / 4 % TILE, column = at + step * 32 + i % 4 * 8;
        const bool inside = first + row < rows && column < k;
        cp_async16(tile + i * 16, matrix + (inside ? (int64_t)(first + row) * k + column : 0), inside);
    }
}
// Of row `row`, the lane's 8 numbers of step `step`, as pairs.
DEVICE uint4 read_tile(const unsigned char* tile, int step, int row) {
    return load16(tile + ((step * TILE + row) * 4 + threadIdx.x % 4) * 16);
}

// A warp's second operands for 32 in k: pairs[j][i] of column 8 j + g.
struct Columns {
    uint32_t pairs[4][4];
};

struct Bf16Weights {
    static constexpr int BYTES = TILE * STAGE_K * 2;
    const bf16* weight;  // (n, k)
    int n, k;

    DEVICE void fetch(const Bf16Weights& w, unsigned char* stage, int n0, int at) {
        fetch_tile(stage, w.weight, n0, w.n, at, w.k);
    }
    DEVICE Columns read(const Bf16Weights&, const unsigned char* stage, int column, int step) {
        Columns c;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const uint4 v = read_tile(stage, step, column + j * 8 + threadIdx.x % 32 / 4);
            c.pairs[j][0] = v.x, c.pairs[j][1] = v.y, c.pairs[j][2] = v.z, c.pairs[j][3] = v.w;
        }
        return c;
    }
};

// Scales and zero points of the groups of both steps of a stage, 8 panels of 16 rows each.
constexpr int PANELS = TILE / 16, SCALE_BYTES = 2 * PANELS * 32, ZERO_BYTES = 2 * PANELS * 16;

// Copies the factors, `bytes` a panel and group; `threads` threads from `first` on do it.
DEVICE void fetch_factors(unsigned char* to, const void* factors, int bytes, int first, int n0, int n, int at, int groups,
                          int group_shift) {
    const int i = (int)threadIdx.x - first, per_panel = bytes / 16;
    if (i < 0 || i >= 2 * PANELS * per_panel) return;
    const int step = i / per_panel / PANELS, panel = n0 / 16 + i / per_panel % PANELS;
    const int group = min((at + step * 32) >> group_shift, groups - 1);
    const bool inside = panel < (n + 15) / 16;
    const int64_t from = ((int64_t)panel * groups + group) * bytes + i % per_panel * 16;
    cp_async16(to + i * 16, static_cast<const unsigned char*>(factors) + (inside ? from : 0), inside);
}

struct Int4Weights {
    static constexpr int CODE_BYTES = PANELS * 512, BYTES = CODE_BYTES + SCALE_BYTES + ZERO_BYTES;
    const uint32_t* codes;   // (panels, ceil(k / 64), 32 lanes, 4)
    const uint32_t* scales;  // (panels, groups, 8): f16 of rows g and g + 8
    const uint16_t* zeros;   // (panels, groups, 8): bytes of rows g and g + 8; null: 8
    int n, blocks, groups, group_shift;

    DEVICE void fetch(const Int4Weights& w, unsigned char* stage, int n0, int at) {
        const int panel = n0 / 16 + threadIdx.x / 32;
        const bool inside = panel < (w.n + 15) / 16;
        const int64_t from = (((int64_t)panel * w.blocks + at / 64) * 32 + threadIdx.x % 32) * 4;
        cp_async16(stage + threadIdx.x * 16, w.codes + (inside ? from : 0), inside);
        fetch_factors(stage + CODE_BYTES, w.scales, 32, 0, n0, w.n, at, w.groups, w.group_shift);
        if (w.zeros)
            fetch_factors(stage + CODE_BYTES + SCALE_BYTES, w.zeros, 16, 32, n0, w.n, at, w.groups, w.group_shift);
    }
    DEVICE Columns read(const Int4Weights& w, const unsigned char* stage, int column, int step) {
        const int lane = threadIdx.x % 32, g = lane / 4;
        const uint32_t* scales = reinterpret_cast<const uint32_t*>(stage + CODE_BYTES);
        const uint16_t* zeros = reinterpret_cast<const uint16_t*>(stage + CODE_BYTES + SCALE_BYTES);
        Columns c;
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            const int panel = column / 16 + p, place = (step * PANELS + panel) * 8 + g;
            // The compiler reads the words of both steps once.
            const uint4 v = load16(stage + (panel * 32 + lane) * 16);
            const uint32_t codes[2] = {step ? v.z : v.x, step ? v.w : v.y};
            const uint32_t scale = scales[place], zero = w.zeros ? zeros[place] : 0x0808u;
#pragma unroll
            for (int half = 0; half < 2; ++half)
                dequantize_int4(c.pairs[2 * p + half], codes[half], minus_zero_int4(zero >> 8 * half & 255),
                                split_scale((uint16_t)(scale >> 16 * half)));
        }
        return c;
    }
};

// Numbers of E2M1, with a power of two for each 32.
struct Mxfp4Weights {
    static constexpr int CODE_BYTES = PANELS * 512, BYTES = CODE_BYTES + ZERO_BYTES;
    const uint32_t* codes;      // as Int4Weights'
    const uint16_t* exponents;  // (panels, groups, 8): bytes of rows g and g + 8
    int n, blocks, groups;

    DEVICE void fetch(const Mxfp4Weights& w, unsigned char* stage, int n0, int at) {
        const int panel = threadIdx.x / 32 + n0 / 16;
        const bool inside = panel < (w.n + 15) / 16;
        const int64_t from = (((int64_t)panel * w.blocks + at / 64) * 32 + threadIdx.x % 32) * 4;
        cp_async16(stage + threadIdx.x * 16, w.codes + (inside ? from : 0), inside);
        fetch_factors(stage + CODE_BYTES, w.exponents, 16, 0, n0, w.n, at, w.groups, 5);
    }
    DEVICE Columns read(const Mxfp4Weights&, const unsigned char* stage, int column, int step) {
        const int lane = threadIdx.x % 32, g = lane / 4;
        const uint16_t* exponents = reinterpret_cast<const uint16_t*>(stage + CODE_BYTES);
        Columns c;
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            const int panel = column / 16 + p;
            const uint4 v = load16(stage + (panel * 32 + lane) * 16);
            const uint32_t numbers[2] = {step ? v.z : v.x, step ? v.w : v.y};
            const uint32_t both = exponents[(step * PANELS + panel) * 8 + g];
#pragma unroll
            for (int half = 0; half < 2; ++half)
                dequantize_mxfp4(c.pairs[2 * p + half], numbers[half], scale_mxfp4(both >> 8 * half & 255));
        }
        return c;
    }
};

struct Int8Weights {
    static constexpr int CODE_BYTES = PANELS * 1024, BYTES = CODE_BYTES + SCALE_BYTES;
    const uint32_t* codes;   // (panels, ceil(k / 32), 32 lanes, 4)
    const uint32_t* scales;  // (panels, groups, 8): f16 of rows g and g + 8
    int n, blocks, groups, group_shift;

    DEVICE void fetch(const Int8Weights& w, unsigned char* stage, int n0, int at) {
#pragma unroll
        for (int step = 0; step < 2; ++step) {
            const int panel = n0 / 16 + threadIdx.x / 32, block = at / 32 + step;
            const bool inside = panel < (w.n + 15) / 16 && block < w.blocks;
            const int64_t from = (((int64_t)panel * w.blocks + block) * 32 + threadIdx.x % 32) * 4;
            cp_async16(stage + (step * THREADS + threadIdx.x) * 16, w.codes + (inside ? from : 0), inside);
        }
        fetch_factors(stage + CODE_BYTES, w.scales, 32, 0, n0, w.n, at, w.groups, w.group_shift);
    }
    DEVICE Columns read(const Int8Weights&, const unsigned char* stage, int column, int step) {
        const int lane = threadIdx.x % 32, g = lane / 4;
        const uint32_t* scales = reinterpret_cast<const uint32_t*>(stage + CODE_BYTES);
        Columns c;
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            const int panel = column / 16 + p;
            const uint4 v = load16(stage + (step * THREADS + panel * 32 + lane) * 16);
            const uint32_t codes[2][2] = {{v.x, v.y}, {v.z, v.w}};
            const uint32_t factors = scales[(step * PANELS + panel) * 8 + g];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const SplitScale scale = split_scale((uint16_t)(factors >> 16 * half));
                uint32_t(&pairs)[4] = c.pairs[2 * p + half];
                dequantize_int8(pairs[0], pairs[1], codes[half][0], scale);
                dequantize_int8(pairs[2], pairs[3], codes[half][1], scale);
            }
        }
        return c;
    }
};

// Codes with a scale and a minimum for each 16 columns or more.
template <int BITS>
struct LineWeights {
    static constexpr int CODE_BYTES = PANELS * 128 * BITS;
    // Of both halves of both steps.
    static constexpr int FACTOR_BYTES = 4 * PANELS * 64, BYTES = CODE_BYTES + FACTOR_BYTES;
    static constexpr int BLOCK = BITS == 4 ? 64 : 32;
    const uint32_t* codes;  // as Int4Weights' or Int8Weights'
    const uint2* factors;   // (panels, groups, 8): f16 scales of rows g and g + 8, then their minima
    int n, blocks, groups, group_shift;

    DEVICE void fetch(const LineWeights& w, unsigned char* stage, int n0, int at) {
#pragma unroll
        for (int i = 0; i < 64 / BLOCK; ++i) {
            const int panel = n0 / 16 + threadIdx.x / 32, block = at / BLOCK + i;
            const bool inside = panel < (w.n + 15) / 16 && block < w.blocks;
            const int64_t from = (((int64_t)panel * w.blocks + block) * 32 + threadIdx.x % 32) * 4;
            cp_async16(stage + (i * THREADS + threadIdx.x) * 16, w.codes + (inside ? from : 0), inside);
        }
        // A thread copies the factors of two g: (step, panel, half of a step, pair). So halves lie in other banks.
        if (threadIdx.x >= 4 * PANELS * 4) return;
        const int place = threadIdx.x / 4, panel = n0 / 16 + place / 2 % PANELS;
        const int group = min((at + place / 2 / PANELS * 32 + place % 2 * 16) >> w.group_shift, w.groups - 1);
        const bool inside = panel < (w.n + 15) / 16;
        const int64_t from = ((int64_t)panel * w.groups + group) * 8 + threadIdx.x % 4 * 2;
        cp_async16(stage + CODE_BYTES + threadIdx.x * 16, w.factors + (inside ? from : 0), inside);
    }
    DEVICE Columns read(const LineWeights&, const unsigned char* stage, int column, int step) {
        const int lane = threadIdx.x % 32, g = lane / 4, half_step = lane % 4 / 2;
        Columns c;
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            const int panel = column / 16 + p;
            const uint2 factors = load8(stage + CODE_BYTES + (((step * PANELS + panel) * 2 + half_step) * 8 + g) * 8);
            const uint4 v = load16(stage + ((BITS == 4 ? 0 : step * THREADS) + panel * 32 + lane) * 16);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if constexpr (BITS == 4) {
                    const uint32_t first = half ? v.y : v.x, second = half ? v.w : v.z;
                    dequantize_line_int4(c.pairs[2 * p + half], step ? second : first, line_int4(factors, half));
                } else {
                    dequantize_line_int8(c.pairs[2 * p + half], half ? v.z : v.x, half ? v.w : v.y,
                                         line_int8(factors, half));
                }
            }
        }
        return c;
    }
};

// A warp's products of one stage: acc[i][j] is the tile of 16 rows at 16 i and 8 columns at 8 j.
template <class Weights>
DEVICE void multiply_stage(float (&acc)[4][4][4], const Weights& weights, const unsigned char* stage, int warp_row,
                           int warp_column) {
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        const Columns b = Weights::read(weights, stage + X_BYTES, warp_column, step);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint4 lo = read_tile(stage, step, warp_row + i * 16 + g);
            const uint4 hi = read_tile(stage, step, warp_row + i * 16 + 8 + g);
            const uint32_t a0[4] = {lo.x, hi.x, lo.y, hi.y}, a1[4] = {lo.z, hi.z, lo.w, hi.w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                mma_bf16(acc[i][j], a0, b.pairs[j][0], b.pairs[j][1]);
                mma_bf16(acc[i][j], a1, b.pairs[j][2], b.pairs[j][3]);
            }
        }
    }
}

// Numbers that a lane stores at once, 16 bytes.
DEVICE void store_lane(float* out, const float* from, bool) { store16(out, load16(from)); }
// Lanes of every other row read their second half first: so they meet all banks.
DEVICE void store_lane(bf16* out, const float* from, bool second_first) {
    float a[4], b[4];
    load4(a, from + (second_first ? 4 : 0));
    load4(b, from + (second_first ? 0 : 4));
    const uint2 x = {pack_bf16x2(a[0], a[1]), pack_bf16x2(a[2], a[3])};
    const uint2 y = {pack_bf16x2(b[0], b[1]), pack_bf16x2(b[2], b[3])};
    store16(out, second_first ? uint4{y.x, y.y, x.x, x.y} : uint4{x.x, x.y, y.x, y.y});
}

// The warp's tile to out (m, n), by way of its own shared memory, 16 rows at a time.
constexpr int STAGED_STRIDE = 40, STAGED_BYTES = 16 * STAGED_STRIDE * 4;
template <class Out>
DEVICE void store_tile(Out* out, float* staged, const float (&acc)[4][4][4], int row0, int column0, int m, int n) {
    constexpr int AT_ONCE = 16 / sizeof(Out), LANES = 32 / AT_ONCE;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        __syncwarp();
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                store8(staged + (half * 8 + g) * STAGED_STRIDE + j * 8 + 2 * t,
                       uint2{__float_as_uint(acc[i][j][2 * half]), __float_as_uint(acc[i][j][2 * half + 1])});
        __syncwarp();
        for (int r = lane / LANES; r < 16; r += 32 / LANES) {
            const int row = row0 + i * 16 + r, column = column0 + lane % LANES * AT_ONCE;
            const float* from = staged + r * STAGED_STRIDE + lane % LANES * AT_ONCE;
            if (row >= m) continue;
            Out* to = out + (int64_t)row * n + column;
            // Rows that are not aligned have no whole 16 bytes.
            if (n % AT_ONCE == 0 && column < n)
                store_lane(to, from, r % 2);
            else
                for (int c = 0; c < min(AT_ONCE, n - column); ++c) store_one(to + c, from[c]);
        }
    }
}

template <class Weights, class Out>
DEVICE void gemm(const bf16* x, const Weights& weights, Out* out, float* partials, int m, int n, int k, int split,
                 int num_splits) {
    constexpr int STAGE_BYTES = X_BYTES + Weights::BYTES;
    SHARED_DYNAMIC(unsigned char, stages);  // (STAGES, STAGE_BYTES): x, then weights
    static_assert(STAGE_BYTES >= 8 * STAGED_BYTES, "a stage has room for what warps stage");
    const int m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE, warp = threadIdx.x / 32;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
    const int parts = PARTS / num_splits, first_part = split * parts, stages_of_part = part_len(k) / STAGE_K;
    const int first = first_part * stages_of_part;
    const int last = min(first + parts * stages_of_part, (k + STAGE_K - 1) / STAGE_K);
    const auto fetch = [&](int stage) {
        unsigned char* to = stages + stage % STAGES * STAGE_BYTES;
        if (stage < last) {
            fetch_tile(to, x, m0, m, stage * STAGE_K, k);
            Weights::fetch(weights, to + X_BYTES, n0, stage * STAGE_K);
        }
        cp_async_commit();
    };
    // Sums go out by way of the stage before `stage`, which nobody reads any more and nothing is fetched to yet.
    const auto store = [&](auto* to, const float(&sums)[4][4][4], int stage) {
        __syncthreads();
        unsigned char* staged = stages + (stage + STAGES - 1) % STAGES * STAGE_BYTES + warp * STAGED_BYTES;
        store_tile(to, reinterpret_cast<float*>(staged), sums, m0 + warp_row, n0 + warp_column, m, n);
    };
    float total[4][4][4] = {};
    for (int i = 0; i < STAGES - 1; ++i) fetch(first + i);
    int stage = first;
    for (int part = first_part; part < first_part + parts; ++part) {
        float acc[4][4][4] = {};
        for (const int end = min((part + 1) * stages_of_part, last); stage < end; ++stage) {
            cp_async_wait<STAGES - 2>();
            // This stage has come for all, and all are done with the one that is fetched over.
            __syncthreads();
            fetch(stage + STAGES - 1);
            multiply_stage(acc, weights, stages + stage % STAGES * STAGE_BYTES, warp_row, warp_column);
        }
        if (num_splits > 1) {
            store(partials + (int64_t)part * m * n, acc, stage);
            continue;
        }
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int c = 0; c < 4; ++c) total[i][j][c] += acc[i][j][c];
    }
    cp_async_wait<0>();
    if (num_splits == 1) store(out, total, stage);
}

// partials (PARTS, m, n) or null with one block per tile
#define GEMM(kind, Out)                                                                                               \
    KERNEL(ferrule_gemm##kind, (256, 1), const bf16* x, const bf16* weight, Out* out, float* partials, int m, int n,  \
           int k) {                                                                                                   \
        gemm(x, Bf16Weights{weight, n, k}, out, partials, m, n, k, blockIdx.z, gridDim.z);                                                   \
    }                                                                                                                 \
    KERNEL(ferrule_gemm_int4##kind, (256, 1), const bf16* x, const uint32_t* codes, const uint32_t* scales,           \
           const uint16_t* zeros, Out* out, float* partials, int m, int n, int k, int group_shift) {                  \
        const int groups = (k + (1 << group_shift) - 1) >> group_shift;                                               \
        gemm(x, Int4Weights{codes, scales, zeros, n, (k + 63) / 64, groups, group_shift}, out, partials, m, n, k, blockIdx.z, gridDim.z);    \
    }                                                                                                                 \
    KERNEL(ferrule_gemm_int8##kind, (256, 1), const bf16* x, const uint32_t* codes, const uint32_t* scales, Out* out, \
           float* partials, int m, int n, int k, int group_shift) {                                                   \
        const int groups = (k + (1 << group_shift) - 1) >> group_shift;                                               \
        gemm(x, Int8Weights{codes, scales, n, (k + 31) / 32, groups, group_shift}, out, partials, m, n, k, blockIdx.z, gridDim.z);           \
    }                                                                                                                 \
    KERNEL(ferrule_gemm_mxfp4##kind, (256, 1), const bf16* x, const uint32_t* codes, const uint16_t* exponents, Out* out, \
           float* partials, int m, int n, int k) {                                                                    \
        gemm(x, Mxfp4Weights{codes, exponents, n, (k + 63) / 64, k / 32}, out, partials, m, n, k, blockIdx.z, gridDim.z); \
    }
#define LINE_GEMM(bits, block, kind, Out)                                                                             \
    KERNEL(ferrule_gemm_int##bits##_min##kind, (256, 1), const bf16* x, const uint32_t* codes, const uint2* factors,  \
           Out* out, float* partials, int m, int n, int k, int group_shift) {                                         \
        const int groups = (k + (1 << group_shift) - 1) >> group_shift;                                               \
        const LineWeights<bits> weights{codes, factors, n, (k + block - 1) / block, groups, group_shift};             \
        gemm(x, weights, out, partials, m, n, k, blockIdx.z, gridDim.z);                                              \
    }
GEMM(, bf16)
GEMM(_f32, float)
LINE_GEMM(4, 64, , bf16)
LINE_GEMM(4, 64, _f32, float)
LINE_GEMM(8, 32, , bf16)
LINE_GEMM(8, 32, _f32, float)

// The products of experts with their own rows: of expert e = z, rows starts[e] .. starts[e + 1] of x (num_rows, k) with
// matrix e of weight (num_experts, n, k), to the same rows of out (num_rows, n).
struct Group {
    int first, rows;
};
DEVICE Group group_of(const int* starts) { return Group{starts[blockIdx.z], starts[blockIdx.z + 1] - starts[blockIdx.z]}; }

KERNEL(ferrule_grouped_gemm, (256, 1), const bf16* x, const bf16* weight, const int* starts, bf16* out, int n, int k) {
    const Group group = group_of(starts);
    if ((int)blockIdx.x * TILE >= group.rows) return;
    const Bf16Weights weights{weight + (int64_t)blockIdx.z * n * k, n, k};
    gemm(x + (int64_t)group.first * k, weights, out + (int64_t)group.first * n, nullptr, group.rows, n, k, 0, 1);
}

// The codes of experts lie one after the other, each with whole panels.
KERNEL(ferrule_grouped_gemm_int4, (256, 1), const bf16* x, const uint32_t* codes, const uint32_t* scales,
       const uint16_t* zeros, const int* starts, bf16* out, int n, int k, int group_shift) {
    const Group group = group_of(starts);
    if ((int)blockIdx.x * TILE >= group.rows) return;
    const int groups = (k + (1 << group_shift) - 1) >> group_shift, blocks = (k + 63) / 64, panels = (n + 15) / 16;
    const int64_t first_panel = (int64_t)blockIdx.z * panels, factors = first_panel * groups * 8;
    const Int4Weights weights{codes + first_panel * blocks * 128, scales + factors, zeros ? zeros + factors : nullptr,
                              n, blocks, groups, group_shift};
    gemm(x + (int64_t)group.first * k, weights, out + (int64_t)group.first * n, nullptr, group.rows, n, k, 0, 1);
}

KERNEL(ferrule_grouped_gemm_int8, (256, 1), const bf16* x, const uint32_t* codes, const uint32_t* scales,
       const int* starts, bf16* out, int n, int k, int group_shift) {
    const Group group = group_of(starts);
    if ((int)blockIdx.x * TILE >= group.rows) return;
    const int groups = (k + (1 << group_shift) - 1) >> group_shift, blocks = (k + 31) / 32, panels = (n + 15) / 16;
    const int64_t first_panel = (int64_t)blockIdx.z * panels;
    const Int8Weights weights{codes + first_panel * blocks * 128, scales + first_panel * groups * 8, n, blocks, groups,
                              group_shift};
    gemm(x + (int64_t)group.first * k, weights, out + (int64_t)group.first * n, nullptr, group.rows, n, k, 0, 1);
}

KERNEL(ferrule_grouped_gemm_mxfp4, (256, 1), const bf16* x, const uint32_t* codes, const uint16_t* exponents,
       const int* starts, bf16* out, int n, int k) {
    const Group group = group_of(starts);
    if ((int)blockIdx.x * TILE >= group.rows) return;
    const int groups = k / 32, blocks = (k + 63) / 64;
    const int64_t first_panel = (int64_t)blockIdx.z * ((n + 15) / 16);
    const Mxfp4Weights weights{codes + first_panel * blocks * 128, exponents + first_panel * groups * 8, n, blocks, groups};
    gemm(x + (int64_t)group.first * k, weights, out + (int64_t)group.first * n, nullptr, group.rows, n, k, 0, 1);
}

#define GROUPED_LINE_GEMM(bits, block)                                                                              \
    KERNEL(ferrule_grouped_gemm_int##bits##_min, (256, 1), const bf16* x, const uint32_t* codes,                    \
           const uint2* factors, const int* starts, bf16* out, int n, int k, int group_shift) {                     \
        const Group group = group_of(starts);                                                                       \
        if ((int)blockIdx.x * TILE >= group.rows) return;                                                           \
        const int groups = (k + (1 << group_shift) - 1) >> group_shift, blocks = (k + block - 1) / block;           \
        const int64_t first_panel = (int64_t)blockIdx.z * ((n + 15) / 16);                                          \
        const LineWeights<bits> weights{codes + first_panel * blocks * 128, factors + first_panel * groups * 8, n,  \
                                        blocks, groups, group_shift};                                               \
        gemm(x + (int64_t)group.first * k, weights, out + (int64_t)group.first * n, nullptr, group.rows, n, k, 0, 1); \
    }
GROUPED_LINE_GEMM(4, 64)
GROUPED_LINE_GEMM(8, 32)

// out[i] = the parts' sums of element i, in order.
template <class Out>
DEVICE void sum_parts(const float* partials, Out* out, int64_t count) {
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float sum = 0.f;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) sum += partials[part * count + i];
    store_one(out + i, sum);
}

// partials (PARTS, count)
KERNEL(ferrule_sum_parts, (256), const float* partials, bf16* out, int64_t count) { sum_parts(partials, out, count); }
KERNEL(ferrule_sum_parts_f32, (256), const float* partials, float* out, int64_t count) { sum_parts(partials, out, count); }
