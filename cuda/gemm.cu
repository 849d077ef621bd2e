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
template <class Number>
DEVICE void fetch_tile(unsigned char* tile, const Number* matrix, int first, int rows, int at, int k) {
#pragma unroll
    for (int turn = 0; turn < TILE * 8 / THREADS; ++turn) {
        const int i = turn * THREADS + threadIdx.x;
        const int step = i / 4 / TILE, row = i / 4 % TILE, column = at + step * 32 + i % 4 * 8;
        const bool inside = first + row < rows && column < k;
        cp_async16(tile + i * 16, matrix + (inside ? (int64_t)(first + row) * k + column : 0), inside);
    }
}
// Makes of x's tile what products take. Every thread does so with what it has fetched, before others read it.
template <class Number>
DEVICE void convert_tile(unsigned char* tile) {
    if (!Factors<Number>::CONVERTED) return;
#pragma unroll
    for (int turn = 0; turn < TILE * 8 / THREADS; ++turn) {
        unsigned char* own = tile + (turn * THREADS + threadIdx.x) * 16;
        store16(own, Factors<Number>::of(load16(own)));
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

// Of each kind of weights: what a stage holds of a block's panels in BYTES, how threads fetch it, and what a warp reads of it.
template <class Weights>
struct Stage;

template <class Number>
struct Stage<PlainWeights<Number>> {
    using Weights = PlainWeights<Number>;
    static constexpr int BYTES = TILE * STAGE_K * 2;

    DEVICE void fetch(const Weights& w, unsigned char* stage, int n0, int at) {
        fetch_tile(stage, w.weight, n0, w.n, at, w.k);
    }
    DEVICE Columns read(const Weights&, const unsigned char* stage, int column, int step) {
        Columns c;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const uint4 v = read_tile(stage, step, column + j * 8 + threadIdx.x % 32 / 4);
            c.pairs[j][0] = v.x, c.pairs[j][1] = v.y, c.pairs[j][2] = v.z, c.pairs[j][3] = v.w;
        }
        return c;
    }
};

constexpr int PANELS = TILE / 16;

// Copies what `array` has of the groups of both steps of a stage, `bytes` a panel and group: to (step, panel, half, bytes),
// with `halves` of a step. Threads from `first` on do it.
DEVICE void fetch_groups(unsigned char* to, const void* array, int bytes, int halves, int first, int first_panel, int panels,
                         int at, int groups, int group_shift) {
    const int i = (int)threadIdx.x - first, place = i / (bytes / 16);
    if (i < 0 || place >= 2 * PANELS * halves) return;
    const int half = place % halves, panel = first_panel + place / halves % PANELS, step = place / halves / PANELS;
    const int group = min((at + step * 32 + half * 16) >> group_shift, groups - 1);
    const bool inside = panel < panels;
    const int64_t from = ((int64_t)panel * groups + group) * bytes + i % (bytes / 16) * 16;
    cp_async16(to + i * 16, static_cast<const unsigned char*>(array) + (inside ? from : 0), inside);
}

// A stage's factors as if they were a matrix's.
constexpr int SCALE_BYTES = 2 * PANELS * 32;
DEVICE Int4 staged(const Int4& f, const unsigned char* at) {
    return Int4{reinterpret_cast<const uint32_t*>(at), f.zeros ? reinterpret_cast<const uint16_t*>(at + SCALE_BYTES) : nullptr};
}
DEVICE Int8 staged(const Int8&, const unsigned char* at) { return Int8{reinterpret_cast<const uint32_t*>(at)}; }
DEVICE Mxfp4 staged(const Mxfp4&, const unsigned char* at) { return Mxfp4{reinterpret_cast<const uint16_t*>(at)}; }
template <int BITS>
DEVICE Line<BITS> staged(const Line<BITS>&, const unsigned char* at) {
    return Line<BITS>{reinterpret_cast<const uint2*>(at)};
}

// Calls fetch(to, array, bytes a panel and group, first thread) for what a form has of groups.
template <class Fetch>
DEVICE void each_array(const Int4& f, unsigned char* to, const Fetch& fetch) {
    fetch(to, f.scales, 32, 0);
    if (f.zeros) fetch(to + SCALE_BYTES, f.zeros, 16, 32);
}
template <class Fetch>
DEVICE void each_array(const Int8& f, unsigned char* to, const Fetch& fetch) { fetch(to, f.scales, 32, 0); }
template <class Fetch>
DEVICE void each_array(const Mxfp4& f, unsigned char* to, const Fetch& fetch) { fetch(to, f.exponents, 16, 0); }
template <int BITS, class Fetch>
DEVICE void each_array(const Line<BITS>& f, unsigned char* to, const Fetch& fetch) { fetch(to, f.factors, 64, 0); }

template <class Form>
struct Stage<CodedWeights<Form>> {
    using Weights = CodedWeights<Form>;
    static constexpr int HALVES = 32 / Form::LEAST_GROUP, CODE_BYTES = PANELS * 128 * Form::BITS;
    static constexpr int BYTES = CODE_BYTES + 2 * PANELS * HALVES * Form::FACTOR_BYTES;

    DEVICE void fetch(const Weights& w, unsigned char* stage, int n0, int at) {
        const int panel = n0 / 16 + threadIdx.x / 32;
#pragma unroll
        for (int i = 0; i < STAGE_K / Weights::COLUMNS; ++i) {
            const int block = at / Weights::COLUMNS + i;
            const bool inside = panel < w.panels && block < w.blocks;
            const int64_t from = (((int64_t)panel * w.blocks + block) * 32 + threadIdx.x % 32) * 4;
            cp_async16(stage + (i * THREADS + threadIdx.x) * 16, w.codes + (inside ? from : 0), inside);
        }
        each_array(w.factors, stage + CODE_BYTES, [&](unsigned char* to, const void* array, int bytes, int first) {
            fetch_groups(to, array, bytes, HALVES, first, n0 / 16, w.panels, at, w.groups, w.group_shift);
        });
    }
    DEVICE Columns read(const Weights& w, const unsigned char* stage, int column, int step) {
        const int lane = threadIdx.x % 32, g = lane / 4, half_step = HALVES == 2 ? lane % 4 / 2 : 0;
        const Form factors = staged(w.factors, stage + CODE_BYTES);
        Columns c;
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            const int panel = column / 16 + p;
            // Of 4 bits, the compiler reads the words of both steps once.
            const uint4 v = load16(stage + ((Form::BITS == 4 ? 0 : step * THREADS) + panel * 32 + lane) * 16);
            const auto group = Form::load(factors, ((step * PANELS + panel) * HALVES + half_step) * 8 + g);
#pragma unroll
            for (int half = 0; half < 2; ++half)
                Form::dequantize(c.pairs[2 * p + half], Weights::codes_of(v, step, half), Form::row(group, half));
        }
        return c;
    }
};

// A warp's products of one stage: acc[i][j] is the tile of 16 rows at 16 i and 8 columns at 8 j.
template <class Weights>
DEVICE void multiply_stage(float (&acc)[4][4][4], const Weights& weights, const unsigned char* stage, int warp_row,
                           int warp_column) {
    using Factor = Factors<typename Weights::Number>;
    const int g = threadIdx.x % 32 / 4;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
        const Columns b = Stage<Weights>::read(weights, stage + X_BYTES, warp_column, step);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint4 lo = read_tile(stage, step, warp_row + i * 16 + g);
            const uint4 hi = read_tile(stage, step, warp_row + i * 16 + 8 + g);
            const uint32_t a0[4] = {lo.x, hi.x, lo.y, hi.y}, a1[4] = {lo.z, hi.z, lo.w, hi.w};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                Factor::mma(acc[i][j], a0, b.pairs[j][0], b.pairs[j][1]);
                Factor::mma(acc[i][j], a1, b.pairs[j][2], b.pairs[j][3]);
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
    constexpr int STAGE_BYTES = X_BYTES + Stage<Weights>::BYTES;
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
            Stage<Weights>::fetch(weights, to + X_BYTES, n0, stage * STAGE_K);
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
            convert_tile<typename Weights::Number>(stages + stage % STAGES * STAGE_BYTES);
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
#define GEMM(form, params, behind, weights, kind, Out)                                                                \
    KERNEL(ferrule_gemm##form##kind, (256, 1), const bf16* x, UNPACKED params, Out* out, float* partials, int m, int n, \
           int k UNPACKED behind) {                                                                                   \
        gemm(x, weights, out, partials, m, n, k, blockIdx.z, gridDim.z);                                              \
    }
EACH_FORM(GEMM, , bf16)
EACH_FORM(GEMM, _f32, float)

// The products of experts with their own rows: of expert e = z, rows starts[e] .. starts[e + 1] of x (num_rows, k) with
// matrix e of weight (num_experts, n, k), to the same rows of out (num_rows, n).
template <class Weights>
DEVICE void grouped_gemm(const bf16* x, const Weights& weights, const int* starts, bf16* out, int n, int k) {
    const int first = starts[blockIdx.z], rows = starts[blockIdx.z + 1] - first;
    if ((int)blockIdx.x * TILE >= rows) return;
    const Weights own = Weights::of_expert(weights, blockIdx.z);
    gemm(x + (int64_t)first * k, own, out + (int64_t)first * n, nullptr, rows, n, k, 0, 1);
}

#define GROUPED_GEMM(form, params, behind, weights, Out)                                                              \
    KERNEL(ferrule_grouped_gemm##form, (256, 1), const bf16* x, UNPACKED params, const int* starts, Out* out, int n,  \
           int k UNPACKED behind) {                                                                                   \
        grouped_gemm(x, weights, starts, out, n, k);                                                                  \
    }
EACH_FORM(GROUPED_GEMM, bf16)

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
