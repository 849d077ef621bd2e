// Attention of generated tokens, one query at a time, over the paged cache, on tensor cores (Flash-Decoding, Dao et al. 2023).
//
// A block serves one query, one piece of the positions that it sees and up to 8 heads of one KV head: these are rows of the mma's
// first operand (its other 8 rows are zero). Nothing is staged in shared memory: dimensions, and columns of the output,
// are permuted such that each 16-byte load of K or V is a fragment. With g = lane / 4, t = lane % 4:
//   q . K: the dimensions 32 i + 8 t .. + 8 of key g stand for the k-pairs of two products;
//   p . V: a lane reads 8 dimensions 64 h + 8 g .. + 8 of the keys 2t, 2t+1, 2t+8, 2t+9; pairs of keys are then put
//   together per dimension, and column g of product i is dimension 64 h + 8 g + i.
// With numbers of one byte, 16 bytes are those of K for 2 i and 2 i + 1, and 16 dimensions 128 h + 16 g .. + 16 of V (heads
// of 64 have 8 bytes of V a lane). Codes are exact as bf16; their scales multiply the scores, and the weights.
// Warps take tiles of 16 positions (a block of the cache) in turn, and meet once, at the end.
#include "simt.cuh"

constexpr int WARPS = 4, ROWS = 8, MIN_PIECE = 256;

// What a query sees, and how it is cut. All of it follows from the query's position alone.
struct Span {
    int begin, end;      // positions that are visible
    int first, piece;    // the first piece begins at `first`, a multiple of 16
    int num_pieces;
};

DEVICE Span cut(int context_len, int window, int num_splits) {
    Span span;
    span.end = context_len;
    span.begin = window > 0 ? max(0, context_len - window) : 0;
    span.first = span.begin / 16 * 16;
    const int length = span.end - span.first;
    span.piece = max(MIN_PIECE, ((length + num_splits - 1) / num_splits + 15) / 16 * 16);
    span.num_pieces = (length + span.piece - 1) / span.piece;
    return span;
}

// Element `i` of a 16-byte load of 8 bf16, from two loads, as a pair.
template <int i>
DEVICE uint32_t pair_of(const uint4& lo, const uint4& hi) {
    const uint32_t a = i / 2 == 0 ? lo.x : i / 2 == 1 ? lo.y : i / 2 == 2 ? lo.z : lo.w;
    const uint32_t b = i / 2 == 0 ? hi.x : i / 2 == 1 ? hi.y : i / 2 == 2 ? hi.z : hi.w;
    return __byte_perm(a, b, i % 2 ? 0x7632 : 0x5410);
}

template <int i>
DEVICE void add_dimension(float (*o)[4], const uint32_t (&p)[4], const uint4 (&v)[4]) {
    mma_bf16(o[i], p, pair_of<i>(v[0], v[1]), pair_of<i>(v[2], v[3]));
    if constexpr (i < 7) add_dimension<i + 1>(o, p, v);
}

// The same for a word of V each of four keys, of one byte a number: dimensions 4 w .. 4 w + 4 of the lane's.
template <class Kv>
DEVICE void add_word(float (*o)[4], const uint32_t (&p)[4], uint32_t v0, uint32_t v1, uint32_t v2, uint32_t v3) {
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
        const uint32_t bytes = odd ? 0x7632 : 0x5410;
        uint32_t lo[2], hi[2];
        Kv::widen(lo[0], lo[1], __byte_perm(v0, v1, bytes));
        Kv::widen(hi[0], hi[1], __byte_perm(v2, v3, bytes));
        mma_bf16(o[odd], p, lo[0], hi[0]);
        mma_bf16(o[odd + 2], p, lo[1], hi[1]);
    }
}

// Where dimension d of an output's row lies in shared memory, where a lane has DIMS neighbours: fours of them change places,
// so that the stores of 8 lanes meet all banks.
template <int DIMS>
DEVICE int place(int row, int d) {
    const int other = DIMS == 8 ? (d / 32 & 1) ^ (row & 1) << 1 : (d / 32 & 3) ^ (row & 1) << 2;
    return (d / 4 ^ other) * 4 + d % 4;
}

template <class Kv, int D>
DEVICE void decode(const bf16* qkv, const uint8_t* cache, const int* block_tables, const Queries* queries,
                   bf16* attended, float* partial_out, float* partial_stats, int num_heads, int num_kv_heads,
                   int max_blocks, int window, float scale, float softcap) {
    constexpr bool NARROW = Kv::BYTES == 1;
    // Dimensions of V that a lane has in one load, and the loads.
    constexpr int V_DIMS = NARROW && D >= 128 ? 16 : 8, V_LOADS = D / 8 / V_DIMS, CHUNKS = D / 32;
    SHARED(float, outputs, [WARPS][ROWS][D]);
    SHARED(float, stats, [WARPS][ROWS][2]);  // the largest score (base 2), the sum of weights
    const int group = num_heads / num_kv_heads, groups_per_head = (group + ROWS - 1) / ROWS;
    const int split = blockIdx.x, kv_head = blockIdx.y / groups_per_head;
    const int head0 = kv_head * group + blockIdx.y % groups_per_head * ROWS;
    const int heads = min(ROWS, (kv_head + 1) * group - head0);
    const Queries own = load_queries(queries + blockIdx.z);
    if (own.count == 0) return;
    const int query = own.row, s = own.sequence;
    const Span span = cut(own.context_len, window, gridDim.x);
    if (split >= span.num_pieces) return;
    const int lo = span.first + split * span.piece, hi = min(lo + span.piece, span.end);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const uint4 zero = {0, 0, 0, 0};
    const bf16* q = qkv + ((int64_t)query * (num_heads + 2 * num_kv_heads) + head0) * D;
    const auto load_query = [&](int i) { return g < heads ? load16(q + g * D + 32 * i + 8 * t) : zero; };
    // Queries stay in registers where there is room for them beside the outputs.
    constexpr bool KEEP_QUERY = D <= 128;
    uint4 kept[CHUNKS];
    if constexpr (KEEP_QUERY) {
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) kept[i] = load_query(i);
    }
    const int part_bytes = kv_part_bytes<Kv>(num_kv_heads, D), head_bytes = 16 * D * Kv::BYTES;
    const int64_t block_bytes = kv_block_bytes<Kv>(num_kv_heads, D);
    float top = NEG_INF, sum = 0.f, o[V_LOADS][V_DIMS][4] = {};
    const float inverse_cap = softcap > 0.f ? 1.f / softcap : 0.f;
    for (int base = lo + warp * 16; base < hi; base += WARPS * 16) {
        const int64_t block = block_tables[(int64_t)s * max_blocks + base / 16];
        const uint8_t* keys = cache + block * block_bytes + kv_head * head_bytes;
        const uint8_t* values = keys + part_bytes;
        // Lane l has the scale of key l, lane 16 + l that of value l.
        float factor = 1.f;
        if constexpr (Kv::SCALED) {
            const float* scales = reinterpret_cast<const float*>(cache + block * block_bytes + 2 * part_bytes);
            const int position = base + lane % 16;
            const bool seen = position >= span.begin && position < hi;
            factor = seen ? scales[(lane / 16 * num_kv_heads + kv_head) * 16 + lane % 16] : 0.f;
        }
        float scores[2][4] = {};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int key = j * 8 + g;
            const bool seen = base + key >= span.begin && base + key < hi;
            const auto multiply = [&](int i, uint4 k) {
                uint4 a;
                if constexpr (KEEP_QUERY)
                    a = kept[i];
                else
                    a = load_query(i);
                const uint32_t a0[4] = {a.x, 0, a.y, 0}, a1[4] = {a.z, 0, a.w, 0};
                mma_bf16(scores[j], a0, k.x, k.y);
                mma_bf16(scores[j], a1, k.z, k.w);
            };
#pragma unroll
            for (int i = 0; i < CHUNKS; i += NARROW ? 2 : 1) {
                const uint8_t* from = keys + (key * D + 32 * i + (NARROW ? 16 : 8) * t) * Kv::BYTES;
                const uint4 k = seen ? load16_streamed(from) : zero;
                if constexpr (NARROW) {
                    uint4 first, second;
                    Kv::widen(first.x, first.y, k.x), Kv::widen(first.z, first.w, k.y);
                    Kv::widen(second.x, second.y, k.z), Kv::widen(second.z, second.w, k.w);
                    multiply(i, first);
                    multiply(i + 1, second);
                } else {
                    multiply(i, k);
                }
            }
        }
        float larger = top;
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const int key = base + j * 8 + 2 * t + c;
                float score = scores[j][c] * scale;
                if constexpr (Kv::SCALED) score *= __shfl_sync(ALL_LANES, factor, j * 8 + 2 * t + c);
                if (softcap > 0.f) score = softcap * fast_tanh(score * inverse_cap);
                scores[j][c] = key >= span.begin && key < hi ? score * LOG2_E : NEG_INF;
                larger = fmaxf(larger, scores[j][c]);
            }
        larger = fmaxf(larger, __shfl_xor_sync(ALL_LANES, larger, 1));
        larger = fmaxf(larger, __shfl_xor_sync(ALL_LANES, larger, 2));
        const float reference = larger == NEG_INF ? 0.f : larger, shrink = fast_exp2(top - reference);
        top = larger;
        sum *= shrink;
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                scores[j][c] = fast_exp2(scores[j][c] - reference);
                sum += scores[j][c];
                if constexpr (Kv::SCALED) scores[j][c] *= __shfl_sync(ALL_LANES, factor, 16 + j * 8 + 2 * t + c);
            }
        const uint32_t p[4] = {pack_bf16x2(scores[0][0], scores[0][1]), 0, pack_bf16x2(scores[1][0], scores[1][1]), 0};
#pragma unroll
        for (int h = 0; h < V_LOADS; ++h) {
            uint4 v[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int key = j / 2 * 8 + 2 * t + j % 2;
                const bool seen = base + key >= span.begin && base + key < hi;
                const uint8_t* from = values + (key * D + 8 * V_DIMS * h + V_DIMS * g) * Kv::BYTES;
                if constexpr (V_DIMS * Kv::BYTES == 16) {
                    v[j] = seen ? load16_streamed(from) : zero;
                } else {
                    const uint2 half = seen ? load8(from) : uint2{0, 0};
                    v[j] = uint4{half.x, half.y, 0, 0};
                }
            }
#pragma unroll
            for (int i = 0; i < V_DIMS; ++i) o[h][i][0] *= shrink, o[h][i][1] *= shrink;
            if constexpr (NARROW) {
                add_word<Kv>(o[h], p, v[0].x, v[1].x, v[2].x, v[3].x);
                add_word<Kv>(o[h] + 4, p, v[0].y, v[1].y, v[2].y, v[3].y);
                if constexpr (V_DIMS == 16) {
                    add_word<Kv>(o[h] + 8, p, v[0].z, v[1].z, v[2].z, v[3].z);
                    add_word<Kv>(o[h] + 12, p, v[0].w, v[1].w, v[2].w, v[3].w);
                }
            } else {
                add_dimension<0>(o[h], p, v);
            }
        }
    }
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
#pragma unroll
    for (int h = 0; h < V_LOADS; ++h)
#pragma unroll
        for (int c = 0; c < 2; ++c)
#pragma unroll
            for (int i = 0; i < V_DIMS; i += 4) {
                const int d = V_DIMS * (8 * h + 2 * t + c) + i;
                store_floats4(&outputs[warp][g][place<V_DIMS>(g, d)], o[h][i][c], o[h][i + 1][c], o[h][i + 2][c],
                              o[h][i + 3][c]);
            }
    if (t == 0) stats[warp][g][0] = top, stats[warp][g][1] = sum;
    __syncthreads();
    for (int i = threadIdx.x; i < heads * D; i += WARPS * 32) {
        const int row = i / D, d = i % D;
        float largest = NEG_INF, total = 0.f, out = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) largest = fmaxf(largest, stats[w][row][0]);
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float share = fast_exp2(stats[w][row][0] - largest);
            total += share * stats[w][row][1];
            out += share * outputs[w][row][place<V_DIMS>(row, d)];
        }
        if (span.num_pieces == 1) {
            attended[((int64_t)query * num_heads + head0 + row) * D + d] = to_bf16(out * fast_rcp(total));
            continue;
        }
        const int64_t part = ((int64_t)blockIdx.z * num_heads + head0 + row) * gridDim.x + split;
        partial_out[part * D + d] = out;
        if (d == 0) partial_stats[part * 2] = largest, partial_stats[part * 2 + 1] = total;
    }
}

#define DECODE_ATTENTION(kind, Kv, D)                                                                            \
    KERNEL(ferrule_decode_attention##kind##_d##D, (128),                                                         \
           const bf16* qkv,         /* (num_tokens, (num_heads + 2 * num_kv_heads) * D) */                       \
           const uint8_t* cache,    /* (num_blocks,) blocks of Kv */                                             \
           const int* block_tables, /* (num_seqs, max_blocks) */                                                 \
           const Queries* queries,  /* (num_runs,), of one query each, or padding */                             \
           bf16* attended,          /* (num_tokens, num_heads * D) */                                            \
           float* partial_out,      /* (num_runs, num_heads, num_splits, D) */                                   \
           float* partial_stats,    /* (num_runs, num_heads, num_splits, 2) */                                   \
           int num_heads, int num_kv_heads, int max_blocks, int window, float scale, float softcap) {            \
        decode<Kv, D>(qkv, cache, block_tables, queries, attended, partial_out, partial_stats, num_heads,        \
                      num_kv_heads, max_blocks, window, scale, softcap);                                         \
    }
#define DECODE_ATTENTIONS(kind, Kv) \
    DECODE_ATTENTION(kind, Kv, 64)  \
    DECODE_ATTENTION(kind, Kv, 128) \
    DECODE_ATTENTION(kind, Kv, 256)
DECODE_ATTENTIONS(, KvBf16)
DECODE_ATTENTIONS(_int8, KvInt8)
DECODE_ATTENTIONS(_fp8, KvFp8)

KERNEL(ferrule_merge_splits, (64),
       const float* partial_out,    // (num_runs, num_heads, num_splits, head_dim)
       const float* partial_stats,  // (num_runs, num_heads, num_splits, 2)
       const Queries* queries,      // (num_runs,)
       bf16* attended,              // (num_tokens, num_heads * head_dim)
       int num_heads, int head_dim, int num_splits, int window) {
    const int head = blockIdx.x;
    const Queries own = load_queries(queries + blockIdx.y);
    if (own.count == 0) return;
    const int query = own.row, num_pieces = cut(own.context_len, window, num_splits).num_pieces;
    if (num_pieces <= 1) return;
    const int64_t part = ((int64_t)blockIdx.y * num_heads + head) * num_splits;
    float largest = NEG_INF;
    for (int i = 0; i < num_pieces; ++i) largest = fmaxf(largest, partial_stats[(part + i) * 2]);
    for (int d = threadIdx.x; d < head_dim; d += blockDim.x) {
        float total = 0.f, out = 0.f;
        for (int i = 0; i < num_pieces; ++i) {
            const float share = fast_exp2(partial_stats[(part + i) * 2] - largest);
            total += share * partial_stats[(part + i) * 2 + 1];
            out += share * partial_out[(part + i) * head_dim + d];
        }
        attended[((int64_t)query * num_heads + head) * head_dim + d] = to_bf16(out * fast_rcp(total));
    }
}
