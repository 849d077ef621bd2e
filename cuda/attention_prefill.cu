// Attention of prompts, or parts of them, over the paged cache (FlashAttention-2, Dao 2023).
//
// A block serves one head and 64 queries of one sequence, 16 per warp. K and V tiles of KEYS positions are fetched one
// step ahead. Tiles begin at multiples of KEYS, and one without a key that a query sees changes nothing of the query's sums:
// these do not depend on which other queries a step has. Scores and outputs stay in registers: the accumulators of q . K
// are, packed, the first operand of p . V.
// Numbers of one byte are fetched as they are, and become tiles of bf16 when their step has come.
#include "simt.cuh"

constexpr int QUERIES = 64, THREADS = 128;

template <int D>
struct Shape {
    static constexpr int KEYS = D > 128 ? 32 : 64;
    // 8 elements more than a row: the 8 rows of an ldmatrix meet all banks.
    static constexpr int STRIDE = D + 8;
};

// A stage's codes (K and V, KEYS, D) as a tile each of bf16.
template <class Kv, int D>
DEVICE void widen(const uint8_t* codes, bf16* tiles) {
    constexpr int CHUNKS = D / 8;
#pragma unroll
    for (int turn = 0; turn < 2 * Shape<D>::KEYS * CHUNKS / THREADS; ++turn) {
        const int i = turn * THREADS + threadIdx.x;
        const uint2 v = load8(codes + i * 8);
        uint4 pairs;
        Kv::widen(pairs.x, pairs.y, v.x), Kv::widen(pairs.z, pairs.w, v.y);
        // Back from k_place.
        const int chunk = i % CHUNKS, of_k = chunk / 8 * 8 + chunk / 2 % 4 + chunk % 2 * 4;
        store16(tiles + i / CHUNKS * Shape<D>::STRIDE + (i < Shape<D>::KEYS * CHUNKS ? of_k : chunk) * 8, pairs);
    }
}

template <class Kv, int D>
DEVICE void prefill(const bf16* qkv, const uint8_t* cache, const int* block_tables, const Queries* queries,
                    bf16* attended, int num_heads, int num_kv_heads, int max_blocks, int window, float scale,
                    float softcap) {
    constexpr bool NARROW = Kv::BYTES == 1;
    constexpr int KEYS = Shape<D>::KEYS, STRIDE = Shape<D>::STRIDE, CHUNKS = D / 8, TILES = NARROW ? 1 : 2;
    SHARED_DYNAMIC(bf16, q_tile);                      // (QUERIES, STRIDE)
    bf16* k_tiles = q_tile + QUERIES * STRIDE;         // (TILES, KEYS, STRIDE)
    bf16* v_tiles = k_tiles + TILES * KEYS * STRIDE;   // (TILES, KEYS, STRIDE)
    uint8_t* codes = reinterpret_cast<uint8_t*>(v_tiles + TILES * KEYS * STRIDE);  // NARROW: (2 stages, K and V, KEYS, D)
    float* scales = reinterpret_cast<float*>(codes + 4 * KEYS * D);                // SCALED: (2 stages, K and V, KEYS)
    const int head = blockIdx.y, kv_head = head / (num_heads / num_kv_heads);
    const Queries own = load_queries(queries + blockIdx.z);
    const int start = own.row, num_queries = own.count, context_len = own.context_len, s = own.sequence;
    const int first = blockIdx.x * QUERIES;        // of this block's queries, within the run
    if (first >= num_queries) return;
    const int position = context_len - num_queries + first;  // of this block's first query
    const int end = min(context_len, position + QUERIES);
    const int begin = window > 0 ? max(0, position - window + 1) : 0;
    const int width = (num_heads + 2 * num_kv_heads) * D;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int matrix = lane / 8, row = lane % 8;
    const int part_bytes = kv_part_bytes<Kv>(num_kv_heads, D);
    const int64_t block_bytes = kv_block_bytes<Kv>(num_kv_heads, D);

    const auto is_seen = [&](int position) { return position >= begin && position < end; };
    // Where the position's block begins in the cache.
    const auto block_of = [&](int position) {
        return block_tables[(int64_t)s * max_blocks + position / 16] * block_bytes;
    };
    const auto fetch = [&](int from, int stage) {
        constexpr int AT_ONCE = 16 / Kv::BYTES, LOADS = D / AT_ONCE;
#pragma unroll
        for (int turn = 0; turn < KEYS * LOADS / THREADS; ++turn) {
            const int i = turn * THREADS + threadIdx.x, key = i / LOADS, column = i % LOADS * AT_ONCE;
            const bool seen = is_seen(from + key);
            const int in_block = ((kv_head * 16 + (from + key) % 16) * D + column) * Kv::BYTES;
            const uint8_t* k = seen ? cache + block_of(from + key) + in_block : cache;
            const uint8_t* v = seen ? k + part_bytes : cache;
            if constexpr (NARROW) {
                cp_async16(codes + (stage * 2 * KEYS + key) * D + column, k, seen);
                cp_async16(codes + ((stage * 2 + 1) * KEYS + key) * D + column, v, seen);
            } else {
                cp_async16(k_tiles + (stage * KEYS + key) * STRIDE + column, k, seen);
                cp_async16(v_tiles + (stage * KEYS + key) * STRIDE + column, v, seen);
            }
        }
        if constexpr (Kv::SCALED) {
            const int key = threadIdx.x % KEYS, part = threadIdx.x / KEYS;
            if (part < 2) {
                const bool seen = is_seen(from + key);
                const int in_block = 2 * part_bytes + ((part * num_kv_heads + kv_head) * 16 + (from + key) % 16) * 4;
                cp_async4(scales + (stage * 2 + part) * KEYS + key, seen ? cache + block_of(from + key) + in_block : cache, seen);
            }
        }
    };
    for (int i = threadIdx.x; i < QUERIES * CHUNKS; i += THREADS) {
        const int query = i / CHUNKS, column = i % CHUNKS * 8;
        const bool inside = first + query < num_queries;
        const int64_t at = (int64_t)(start + first + query) * width + head * D + column;
        cp_async16(q_tile + query * STRIDE + column, qkv + (inside ? at : 0), inside);
    }
    const int from0 = begin / KEYS * KEYS;
    fetch(from0, 0);
    cp_async_commit();

    const float inverse_cap = softcap > 0.f ? 1.f / softcap : 0.f;
    float o[D / 8][4] = {}, top[2] = {NEG_INF, NEG_INF}, sum[2] = {0.f, 0.f};
    int stage = 0;
    for (int from = from0; from < end; from += KEYS, stage ^= 1) {
        if (from + KEYS < end) fetch(from + KEYS, stage ^ 1);
        cp_async_commit();
        cp_async_wait<1>();
        __syncthreads();
        if constexpr (NARROW) {
            widen<Kv, D>(codes + stage * 2 * KEYS * D, k_tiles);
            __syncthreads();
        }
        const int first_key = NARROW ? 0 : stage * KEYS;
        const float* k_scales = scales + stage * 2 * KEYS;
        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; ++i) {
            uint32_t q[4];
            ldmatrix_x4(q, q_tile + (warp * 16 + matrix % 2 * 8 + row) * STRIDE + i * 16 + matrix / 2 * 8);
#pragma unroll
            for (int j = 0; j < KEYS / 16; ++j) {
                uint32_t k[4];
                const int key = first_key + j * 16 + matrix / 2 * 8 + row;
                ldmatrix_x4(k, k_tiles + key * STRIDE + i * 16 + matrix % 2 * 8);
                mma_bf16(scores[2 * j], q, k[0], k[1]);
                mma_bf16(scores[2 * j + 1], q, k[2], k[3]);
            }
        }
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int mine = position + warp * 16 + half * 8 + g;
            const int oldest = window > 0 ? mine - window : -1;
            float larger = top[half];
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                for (int c = 2 * half; c < 2 * half + 2; ++c) {
                    const int key = from + j * 8 + 2 * t + c % 2;
                    float score = scores[j][c] * scale;
                    if constexpr (Kv::SCALED) score *= k_scales[key - from];
                    if (softcap > 0.f) score = softcap * fast_tanh(score * inverse_cap);
                    const bool seen = key <= mine && key > oldest && key < end;
                    scores[j][c] = seen ? score * LOG2_E : NEG_INF;
                    larger = fmaxf(larger, scores[j][c]);
                }
            larger = fmaxf(larger, __shfl_xor_sync(ALL_LANES, larger, 1));
            larger = fmaxf(larger, __shfl_xor_sync(ALL_LANES, larger, 2));
            const float reference = larger == NEG_INF ? 0.f : larger, shrink = fast_exp2(top[half] - reference);
            top[half] = larger;
            sum[half] *= shrink;
#pragma unroll
            for (int i = 0; i < D / 8; ++i) o[i][2 * half] *= shrink, o[i][2 * half + 1] *= shrink;
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j)
#pragma unroll
                for (int c = 2 * half; c < 2 * half + 2; ++c) {
                    scores[j][c] = fast_exp2(scores[j][c] - reference);
                    sum[half] += scores[j][c];
                    if constexpr (Kv::SCALED) scores[j][c] *= k_scales[KEYS + j * 8 + 2 * t + c % 2];
                }
        }
#pragma unroll
        for (int j = 0; j < KEYS / 16; ++j) {
            const float(*p)[4] = scores + 2 * j;
            const uint32_t weights[4] = {pack_bf16x2(p[0][0], p[0][1]), pack_bf16x2(p[0][2], p[0][3]),
                                         pack_bf16x2(p[1][0], p[1][1]), pack_bf16x2(p[1][2], p[1][3])};
#pragma unroll
            for (int i = 0; i < D / 16; ++i) {
                uint32_t v[4];
                const int key = first_key + j * 16 + matrix % 2 * 8 + row;
                ldmatrix_x4_trans(v, v_tiles + key * STRIDE + i * 16 + matrix / 2 * 8);
                mma_bf16(o[2 * i], weights, v[0], v[1]);
                mma_bf16(o[2 * i + 1], weights, v[2], v[3]);
            }
        }
        // All are done with this stage before it is fetched over.
        __syncthreads();
    }

    // A warp's queries have been read by none but itself: their place takes its outputs, for 16-byte stores.
    bf16* staged = q_tile + warp * 16 * STRIDE;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 1);
        sum[half] += __shfl_xor_sync(ALL_LANES, sum[half], 2);
        const float inverse = sum[half] > 0.f ? 1.f / sum[half] : 0.f;
        uint32_t* to = reinterpret_cast<uint32_t*>(staged + (half * 8 + g) * STRIDE + 2 * t);
#pragma unroll
        for (int i = 0; i < D / 8; ++i) to[4 * i] = pack_bf16x2(o[i][2 * half] * inverse, o[i][2 * half + 1] * inverse);
    }
    __syncwarp();
    for (int i = lane; i < 16 * CHUNKS; i += 32) {
        const int query = i / CHUNKS, column = i % CHUNKS * 8;
        if (first + warp * 16 + query >= num_queries) continue;
        const int64_t to = ((int64_t)(start + first + warp * 16 + query) * num_heads + head) * D + column;
        store16(attended + to, load16(staged + query * STRIDE + column));
    }
}

#define PREFILL_ATTENTION(kind, Kv, D)                                                                   \
    KERNEL(ferrule_prefill_attention##kind##_d##D, (128, 1),                                             \
           const bf16* qkv,         /* (num_tokens, (num_heads + 2 * num_kv_heads) * D) */               \
           const uint8_t* cache,    /* (num_blocks,) blocks of Kv */                                     \
           const int* block_tables, /* (num_seqs, max_blocks) */                                         \
           const Queries* queries,  /* (num_runs,) */                                                    \
           bf16* attended,          /* (num_tokens, num_heads * D) */                                    \
           int num_heads, int num_kv_heads, int max_blocks, int window, float scale, float softcap) {    \
        prefill<Kv, D>(qkv, cache, block_tables, queries, attended, num_heads, num_kv_heads, max_blocks, \
                       window, scale, softcap);                                                          \
    }
#define PREFILL_ATTENTIONS(kind, Kv) \
    PREFILL_ATTENTION(kind, Kv, 64)  \
    PREFILL_ATTENTION(kind, Kv, 128) \
    PREFILL_ATTENTION(kind, Kv, 256)
PREFILL_ATTENTIONS(, KvBf16)
PREFILL_ATTENTIONS(_int8, KvInt8)
PREFILL_ATTENTIONS(_fp8, KvFp8)
