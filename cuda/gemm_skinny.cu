// out (m, n) = x (m, k) . weight (n, k)^T for few rows: the time is that of reading the weights, once.
//
// A block makes 16 columns of out for each of its panels, one warp per part of k (see PARTS). A panel's rows are the mma's 16
// rows, x's rows its 8 columns. A lane's 16 bytes of x are 8 neighbours in k, which serve as the two pairs of two products: k
// is permuted alike in both operands, so sums do not change. Quantized weights lie as lanes want them: see README.md.
//
// Every block reads all of x. So those of wide kernels have several panels, as many as the grid leaves them.
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

// Of each kind of weights: the lane's view of a block's panels (`at`), what it loads of BLOCK_K columns of one of them, all at
// once, and what a step makes of it; `Rows` pass from a step to the next one. Offsets within a block's panels have 32 bits.
template <class Weights>
struct Panels;

template <class Number>
struct Panels<PlainWeights<Number>> {
    using Weights = PlainWeights<Number>;

    struct Loaded {
        uint4 rows[STEPS][2];
    };
    struct Rows {};
    DEVICE Weights at(const Weights& w, int panel) {
        const int lane = threadIdx.x % 32, row = panel * 16 + lane / 4, column = lane % 4 * 8;
        return Weights{w.weight + (int64_t)row * w.k + column, w.n - row, w.k};
    }
    DEVICE Loaded load(const Weights& w, int panel, int at) {
        Loaded l;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = panel * 16 + half * 8;
            const Number* from = w.weight + (int64_t)row * w.k + at;
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                const bool inside = row < w.n && at + step * 32 + (int)threadIdx.x % 4 * 8 < w.k;
                l.rows[step][half] = inside ? load16_streamed(from + step * 32) : uint4{0, 0, 0, 0};
            }
        }
        return l;
    }
    DEVICE Fragments fragments(const Weights&, const Loaded& l, int step, Rows&) {
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

template <class Form>
struct Panels<CodedWeights<Form>> {
    using Weights = CodedWeights<Form>;
    // The lanes of a row load different groups, and tell each other: HELD of them each. With groups of 16, lanes 0 and 1 have
    // those of a step's first half, 2 and 3 of its second one.
    static constexpr int HELD = 32 / Form::LEAST_GROUP;

    struct Loaded {
        uint4 codes[BLOCK_K / Weights::COLUMNS];
        typename Form::Group groups[HELD];
    };
    struct Rows {
        typename Form::Row row[2];
    };
    DEVICE Weights at(const Weights& w, int panel) {
        const int lane = threadIdx.x % 32;
        Weights found = Weights::from_panel(w, panel);
        found.codes += lane * 4;
        found.factors = Form::behind(found.factors, lane / 4);
        return found;
    }
    DEVICE Loaded load(const Weights& w, int panel, int at) {
        const int t = threadIdx.x % 4;
        // A panel too many is nobody's.
        const bool exists = panel < w.panels;
        const int block = at / Weights::COLUMNS;
        const uint32_t* from = w.codes + (panel * w.blocks + block) * 128;
        Loaded l;
#pragma unroll
        for (int i = 0; i < BLOCK_K / Weights::COLUMNS; ++i)
            l.codes[i] = exists && block + i < w.blocks ? load16_streamed(from + i * 128) : uint4{0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < HELD; ++i) {
            const int column = at + (HELD == 1 ? t * 32 : (t % 2 * 2 + i) * 32 + t / 2 * 16);
            const int group = min(column >> w.group_shift, w.groups - 1);
            l.groups[i] = Form::load(w.factors, ((exists ? panel : 0) * w.groups + group) * 8);
        }
        return l;
    }
    DEVICE Fragments fragments(const Weights& w, const Loaded& l, int step, Rows& rows) {
        // Else the group is the one of the step before.
        if (step == 0 || (step * 32 & ((1 << w.group_shift) - 1)) == 0) {
            const int lane = threadIdx.x % 32, holder = HELD == 1 ? (lane & ~3) + step : (lane & ~1) + step / 2;
            const auto group = Form::of_lane(l.groups[step % HELD], holder);
#pragma unroll
            for (int half = 0; half < 2; ++half) rows.row[half] = Form::row(group, half);
        }
        Fragments f;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t pairs[4];
            const uint2 codes = Weights::codes_of(l.codes[step * 32 / Weights::COLUMNS], step, half);
            Form::dequantize(pairs, codes, rows.row[half]);
            Fragments::set_row(f, half, pairs);
        }
        return f;
    }
};

// Panels of each block, in groups, so that the grid has all of them.
DEVICE int panels_of_block(int n, int group) {
    const int columns = (int)gridDim.x * group * 16;
    return (n + columns - 1) / columns * group;
}

// Columns of out that block x makes: 16 for each of its panels.
template <int TILES, bool WIDE, class Weights, class Out>
DEVICE void skinny_gemm(const bf16* x, const Weights& weights, Out* out, int m, int n, int k) {
    using Kind = Panels<Weights>;
    using Factor = Factors<typename Weights::Number>;
    // Most panels: 8 or 16 rows of x are a fourth of what these are. Registers do not hold the sums of 32 rows of so many.
    constexpr int PANELS = !WIDE ? 1 : 32 / Weights::BITS * (TILES == 2 ? 2 : 1);
    // Panels that registers hold at a time: all but one are under way while it is multiplied.
    constexpr int LOADED = sizeof(typename Kind::Loaded), SLOTS = !WIDE || LOADED > 80 ? 1 : LOADED > 40 ? 2 : 4;
    constexpr int AHEAD = SLOTS - 1;
    // A block has some of these. For up to 8 rows it has all: a constant saves instructions where they are what bounds it.
    constexpr int GROUP = !WIDE || TILES == 1 ? PANELS : SLOTS > 2 ? SLOTS : 2;
    // Numbers of x are loaded at the begin of a turn, but where many serve one panel.
    constexpr bool KEPT = WIDE || TILES == 1;
    SHARED(float, sums, [PARTS][TILES * 8][20]);  // (part, row of out, column of out); 20: the lanes of a store meet all banks
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int begin = warp * part_len(k), end = min(begin + part_len(k), k);
    const int num_panels = GROUP == PANELS ? PANELS : panels_of_block(n, GROUP);
    const Weights panels = Kind::at(weights, blockIdx.x * num_panels);
    x += (int64_t)g * k + t * 8;
    typename Kind::Loaded loaded[SLOTS];
#pragma unroll
    for (int panel = 0; panel < AHEAD; ++panel) loaded[panel] = Kind::load(panels, panel, begin);
    float acc[PANELS][TILES][4] = {};
    for (int at = begin; at < end; at += BLOCK_K) {
        const auto load_x = [&](int step, int tile) {
            const bool inside = tile * 8 + g < m && at + step * 32 + t * 8 < k;
            return Factor::of(inside ? load16(x + (int64_t)tile * 8 * k + at + step * 32) : uint4{0, 0, 0, 0});
        };
        uint4 xs[STEPS][TILES];
#pragma unroll
        for (int step = 0; step < STEPS; ++step)
#pragma unroll
            for (int tile = 0; tile < TILES && KEPT; ++tile) xs[step][tile] = load_x(step, tile);
#pragma unroll
        for (int panel = 0; panel < PANELS; ++panel) {
            if (panel % GROUP == 0 && panel >= num_panels) break;
            // Behind the last panel comes the first one of the next turn. Slots are used up then, so it is one of two constants.
            const bool wraps = panel % SLOTS > 0 && panel / SLOTS * SLOTS + SLOTS >= num_panels;
            const int ahead = wraps ? panel % SLOTS - 1 : panel + AHEAD, next = wraps ? at + BLOCK_K : at;
            if (next < end) loaded[(panel + AHEAD) % SLOTS] = Kind::load(panels, ahead, next);
            typename Kind::Rows rows;
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                const Fragments f = Kind::fragments(panels, loaded[panel % SLOTS], step, rows);
#pragma unroll
                for (int tile = 0; tile < TILES; ++tile) {
                    const uint4 b = KEPT ? xs[step][tile] : load_x(step, tile);
                    Factor::mma(acc[panel][tile], f.first, b.x, b.y);
                    Factor::mma(acc[panel][tile], f.second, b.z, b.w);
                }
            }
        }
    }
#pragma unroll
    for (int panel = 0; panel < PANELS; ++panel) {
        if (panel >= num_panels) break;
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[warp][tile * 8 + 2 * t + i % 2][g + i / 2 * 8] = acc[panel][tile][i];
        __syncthreads();
        for (int i = threadIdx.x; i < TILES * 8 * 16; i += PARTS * 32) {
            // A warp reads rows that are 4 apart: these lie in other banks.
            const int row = i / 128 * 8 + i / 32 % 4 + i / 16 % 2 * 4;
            const int column = ((int)blockIdx.x * num_panels + panel) * 16 + i % 16;
            if (row >= m || column >= n) continue;
            float sum = 0.f;
#pragma unroll
            for (int part = 0; part < PARTS; ++part) sum += sums[part][row][i % 16];
            store_one(out + (int64_t)row * n + column, sum);
        }
        if (panel + 1 < num_panels) __syncthreads();
    }
}

#define SKINNY_GEMM(form, params, behind, weights, rows, tiles, kind, Out)                                            \
    KERNEL(ferrule_skinny_gemm##form##kind##_m##rows, (256), const bf16* x, UNPACKED params, Out* out, int m, int n,  \
           int k UNPACKED behind) {                                                                                   \
        skinny_gemm<tiles, false>(x, weights, out, m, n, k);                                                          \
    }                                                                                                                 \
    KERNEL(ferrule_skinny_gemm##form##kind##_wide_m##rows, (256, tiles == 1 ? 2 : 1), const bf16* x, UNPACKED params,  \
           Out* out, int m, int n, int k UNPACKED behind) {                                                           \
        skinny_gemm<tiles, true>(x, weights, out, m, n, k);                                                           \
    }
EACH_FORM(SKINNY_GEMM, 8, 1, , bf16)
EACH_FORM(SKINNY_GEMM, 16, 2, , bf16)
EACH_FORM(SKINNY_GEMM, 32, 4, , bf16)
EACH_FORM(SKINNY_GEMM, 8, 1, _f32, float)
EACH_FORM(SKINNY_GEMM, 16, 2, _f32, float)
EACH_FORM(SKINNY_GEMM, 32, 4, _f32, float)

// The products of experts with their own rows, for few rows each: of expert e = y, rows starts[e] .. starts[e + 1] of x with
// matrix e of the weights, TILES * 8 at a time (the grid's z).
template <int TILES, bool WIDE, class Weights>
DEVICE void grouped_skinny_gemm(const bf16* x, const Weights& weights, const int* starts, bf16* out, int n, int k) {
    const int first = starts[blockIdx.y] + blockIdx.z * TILES * 8, m = min(starts[blockIdx.y + 1] - first, TILES * 8);
    const Weights own = Weights::of_expert(weights, blockIdx.y);
    if (m > 0) skinny_gemm<TILES, WIDE>(x + (int64_t)first * k, own, out + (int64_t)first * n, m, n, k);
}

#define GROUPED_SKINNY_GEMM(form, params, behind, weights, rows, tiles)                                               \
    KERNEL(ferrule_grouped_skinny_gemm##form##_m##rows, (256), const bf16* x, UNPACKED params, const int* starts,     \
           bf16* out, int n, int k UNPACKED behind) {                                                                 \
        grouped_skinny_gemm<tiles, false>(x, weights, starts, out, n, k);                                             \
    }                                                                                                                 \
    KERNEL(ferrule_grouped_skinny_gemm##form##_wide_m##rows, (256, tiles == 1 ? 2 : 1), const bf16* x,                 \
           UNPACKED params, const int* starts, bf16* out, int n, int k UNPACKED behind) {                             \
        grouped_skinny_gemm<tiles, true>(x, weights, starts, out, n, k);                                              \
    }
EACH_FORM(GROUPED_SKINNY_GEMM, 8, 1)
EACH_FORM(GROUPED_SKINNY_GEMM, 32, 4)
