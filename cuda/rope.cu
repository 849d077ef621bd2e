// Bias, head norms, rotation, and the write to the paged cache. A thread has 8 neighbouring elements of a head, a head
// has head_dim / 8 neighbouring lanes: norms and rotations are shuffles within these.
#include "simt.cuh"

// The sum over the `lanes` (a power of two) neighbouring lanes of a head.
DEVICE float head_sum(float x, int lanes) {
    for (int offset = lanes / 2; offset > 0; offset >>= 1) x += __shfl_xor_sync(ALL_LANES, x, offset);
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

KERNEL(ferrule_rope_and_store, (128),
       bf16* qkv,                // (num_tokens, (num_heads + 2 * num_kv_heads) * head_dim); queries change in place
       const float* bias,        // ((num_heads + 2 * num_kv_heads) * head_dim,) or null
       const float* query_norm,  // (head_dim,) or null
       const float* key_norm,    // (head_dim,) or null
       const float* cos_sin,     // (max_position, 2, rotary_dim / 2)
       const int* positions,     // (num_tokens,)
       const int* slots,         // (num_tokens,) block * 16 + place in the block; negative: not stored
       bf16* cache,              // (num_blocks, 2, num_kv_heads, 16, head_dim)
       int num_heads, int num_kv_heads, int head_dim, int rotary_dim, float eps) {
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
    if (!inside) return;
    if (is_query) return store16(qkv + (int64_t)token * width + column, pack8(x));
    const int slot = slots[token];
    if (slot < 0) return;
    const int kv_head = (head - num_heads) % num_kv_heads;
    const int64_t row = (((int64_t)(slot / 16) * 2 + is_value) * num_kv_heads + kv_head) * 16 + slot % 16;
    store16(cache + row * head_dim + first, pack8(x));
}
