// Bias, head norms, rotation, and the write to the paged cache. A thread has 8 neighbouring elements of a head, a head
// has head_dim / 8 neighbouring lanes: norms and rotations are shuffles within these.
#include "simt.cuh"

// The sum, and the largest, over the `lanes` (a power of two) neighbouring lanes of a head.
DEVICE float head_sum(float x, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset >>= 1) x += __shfl_xor_sync(ALL_LANES, x, offset);
    return x;
}
DEVICE float head_max(float x, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, offset));
    return x;
}

DEVICE void norm_head(float (&x)[8], const float* weight, bool wanted, int first, int head_dim, float eps) {
    float squares = 0.f;
#pragma unroll
    for (int i = 0; i < 8; ++i) squares += x[i] * x[i];
    const float inverse = rsqrtf(head_sum(squares, head_dim / 8) / head_dim + eps);
    if (!wanted) return;
    float w[8];
    load_floats8(w, weight + first);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= inverse * w[i];
}

// Pairs (i, i + rotary_dim / 2): the partner's elements lie rotary_dim / 16 lanes away.
DEVICE void rotate(float (&x)[8], const float* cos_sin, bool wanted, int first, int rotary_dim) {
    const int half = rotary_dim / 2, lane = threadIdx.x % 32;
    const bool left = first < half;
    const int partner = left ? lane + half / 8 : lane - half / 8;
    float other[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) other[i] = __shfl_sync(ALL_LANES, x[i], first < rotary_dim ? partner : lane);
    if (!wanted || first >= rotary_dim) return;
    float cosines[8], sines[8];
    const float* angles = cos_sin + (left ? first : first - half);
    load_floats8(cosines, angles);
    load_floats8(sines, angles + half);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = x[i] * cosines[i] + (left ? -other[i] : other[i]) * sines[i];
}

// Four codes in the cache's order.
DEVICE uint32_t in_order(const uint32_t* codes) { return codes[0] | codes[2] << 8 | codes[1] << 16 | codes[3] << 24; }

// What a thread's 8 neighbours are in the cache: `of` is for all lanes of a head.
template <class Kv>
struct Stored;
template <>
struct Stored<KvBf16> {
    uint4 numbers;
    DEVICE Stored of(const float (&x)[8], int) { return Stored{pack8(x)}; }
    DEVICE void put(const Stored& kept, uint8_t* to, float*) { store16(to, kept.numbers); }
};

// x = code * scale, where 127 is the head's largest.
template <>
struct Stored<KvInt8> {
    uint2 numbers;
    float scale;
    DEVICE Stored of(const float (&x)[8], int head_dim) {
        float largest = 0.f;
#pragma unroll
        for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[i]));
        largest = head_max(largest, head_dim / 8);
        const float inverse = 127.f / largest;
        // So small that the inverse overflows: zeros.
        const bool is_zero = inverse > 3.4028235e38f;
        uint32_t codes[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            // The low byte of the sum is the nearest whole number.
            const float sum = add_rounded(mul_rounded(x[i], is_zero ? 0.f : inverse), 12582912.f);
            codes[i] = __float_as_uint(sum) & 255;
        }
        return Stored{uint2{in_order(codes), in_order(codes + 4)}, is_zero ? 0.f : largest / 127.f};
    }
    DEVICE void put(const Stored& kept, uint8_t* to, float* scale) {
        store8(to, kept.numbers);
        if (scale) *scale = kept.scale;
    }
};

template <>
struct Stored<KvFp8> {
    uint2 numbers;
    DEVICE uint32_t encode(float x) {
        const uint32_t bits = __float_as_uint(x), size = bits & 0x7fffffffu;
        // To 3 bits of mantissa, and to even; below 2^-6 numbers are multiples of 2^-9.
        const uint32_t normal = min(((size + 0x7ffffu + (size >> 20 & 1)) >> 20) - (120u << 3), 0x7eu);
        const uint32_t small = __float_as_uint(add_rounded(__uint_as_float(size), 16384.f)) & 255;
        const uint32_t code = size > 0x7f800000u ? 0x7fu : size < 0x3c800000u ? small : normal;
        return (bits >> 24 & 0x80u) | code;
    }
    DEVICE Stored of(const float (&x)[8], int) {
        uint32_t codes[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) codes[i] = encode(x[i]);
        return Stored{uint2{in_order(codes), in_order(codes + 4)}};
    }
    DEVICE void put(const Stored& kept, uint8_t* to, float*) { store8(to, kept.numbers); }
};

template <class Kv>
DEVICE void rope_and_store(bf16* qkv, const float* bias, const float* query_norm, const float* key_norm,
                           const float* cos_sin, const int* positions, const int* slots, uint8_t* cache, int num_heads,
                           int num_kv_heads, int head_dim, int rotary_dim, float eps) {
    const int token = blockIdx.x, width = (num_heads + 2 * num_kv_heads) * head_dim;
    const int column = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
    const int head = column / head_dim, first = column % head_dim;
    const bool inside = column < width, is_query = head < num_heads, is_value = head >= num_heads + num_kv_heads;
    float x[8] = {};
    if (inside) unpack8(x, load16(qkv + (int64_t)token * width + column));
    if (inside && bias) {
        float b[8];
        load_floats8(b, bias + column);
#pragma unroll
        for (int i = 0; i < 8; ++i) x[i] += b[i];
    }
    // All lanes take part in the shuffles, whatever heads they hold.
    if (query_norm) norm_head(x, query_norm, inside && is_query, first, head_dim, eps);
    if (key_norm) norm_head(x, key_norm, inside && !is_query && !is_value, first, head_dim, eps);
    rotate(x, cos_sin + (int64_t)positions[token] * rotary_dim, inside && !is_value, first, rotary_dim);
    const Stored<Kv> kept = Stored<Kv>::of(x, head_dim);
    if (!inside) return;
    if (is_query) return store16(qkv + (int64_t)token * width + column, pack8(x));
    const int slot = slots[token];
    if (slot < 0) return;
    const int kv_head = (head - num_heads) % num_kv_heads;
    const int part_bytes = kv_part_bytes<Kv>(num_kv_heads, head_dim), row = kv_head * 16 + slot % 16;
    uint8_t* block = cache + (int64_t)(slot / 16) * kv_block_bytes<Kv>(num_kv_heads, head_dim);
    // A head's first lane stores its scale.
    float* scales = reinterpret_cast<float*>(block + 2 * part_bytes) + is_value * num_kv_heads * 16;
    const int at = row * head_dim + (is_value ? first : k_place<Kv>(first));
    Stored<Kv>::put(kept, block + is_value * part_bytes + at * Kv::BYTES, first ? nullptr : scales + row);
}

#define ROPE_AND_STORE(kind, Kv)                                                                                         \
    KERNEL(ferrule_rope_and_store##kind, (128),                                                                          \
           bf16* qkv,               /* (num_tokens, (num_heads + 2 * num_kv_heads) * head_dim); queries change in place */ \
           const float* bias,       /* ((num_heads + 2 * num_kv_heads) * head_dim,) or null */                            \
           const float* query_norm, /* (head_dim,) or null */                                                            \
           const float* key_norm,   /* (head_dim,) or null */                                                            \
           const float* cos_sin,    /* (max_position, 2, rotary_dim / 2) */                                              \
           const int* positions,    /* (num_tokens,) */                                                                  \
           const int* slots,        /* (num_tokens,) block * 16 + place in the block; negative: not stored */            \
           uint8_t* cache,          /* (num_blocks,) blocks of Kv */                                                     \
           int num_heads, int num_kv_heads, int head_dim, int rotary_dim, float eps) {                                   \
        rope_and_store<Kv>(qkv, bias, query_norm, key_norm, cos_sin, positions, slots, cache, num_heads, num_kv_heads,   \
                           head_dim, rotary_dim, eps);                                                                   \
    }
ROPE_AND_STORE(, KvBf16)
ROPE_AND_STORE(_int8, KvInt8)
ROPE_AND_STORE(_fp8, KvFp8)
