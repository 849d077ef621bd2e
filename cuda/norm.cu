// RMS norm of rows of the residual stream. One block per row, which it holds in registers: read once, written once.
#include "simt.cuh"

// Groups of 4 elements that a thread holds at most: rows of 16 * 1024 with 1024 threads.
constexpr int GROUPS = 4;

DEVICE int element(int group) { return (group * blockDim.x + threadIdx.x) * 4; }

DEVICE float inverse_rms(const float (&x)[GROUPS][4], int hidden_size, float eps, float* scratch) {
    float squares = 0.f;
#pragma unroll
    for (int group = 0; group < GROUPS; ++group)
#pragma unroll
        for (int i = 0; i < 4; ++i) squares += x[group][i] * x[group][i];
    return rsqrtf(block_sum(squares, scratch) / hidden_size + eps);
}

DEVICE void load_row(float (&x)[GROUPS][4], const float* row, int hidden_size) {
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[group][i] = 0.f;
        if (element(group) < hidden_size) load4(x[group], row + element(group));
    }
}

DEVICE void store_normed(const float (&x)[GROUPS][4], float inverse, const float* weight, bf16* row, int hidden_size) {
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
        if (element(group) >= hidden_size) continue;
        float w[4], y[4];
        load4(w, weight + element(group));
#pragma unroll
        for (int i = 0; i < 4; ++i) y[i] = x[group][i] * inverse * w[i];
        store4(row + element(group), y);
    }
}

KERNEL(ferrule_rms_norm, (1024),
       const float* residual,  // (num_tokens, hidden_size)
       const int* rows,        // (num_rows,) or null: row r
       const float* weight,    // (hidden_size,)
       bf16* normed,           // (num_rows, hidden_size)
       int hidden_size, float eps) {
    SHARED(float, scratch, [32]);
    const int64_t row = rows ? rows[blockIdx.x] : blockIdx.x;
    float x[GROUPS][4];
    load_row(x, residual + row * hidden_size, hidden_size);
    const float inverse = inverse_rms(x, hidden_size, eps, scratch);
    store_normed(x, inverse, weight, normed + (int64_t)blockIdx.x * hidden_size, hidden_size);
}

KERNEL(ferrule_add_rms_norm, (1024),
       float* residual,           // (num_tokens, hidden_size)
       const bf16* projected,     // (num_tokens, hidden_size)
       const float* post_weight,  // (hidden_size,) or null: projected is added as it is
       const float* next_weight,  // (hidden_size,) or null: add only
       bf16* normed,              // (num_tokens, hidden_size), or null with next_weight
       int hidden_size, float eps) {
    SHARED(float, scratch, [32]);
    const int64_t row = (int64_t)blockIdx.x * hidden_size;
    float x[GROUPS][4];
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
#pragma unroll
        for (int i = 0; i < 4; ++i) x[group][i] = 0.f;
        if (element(group) < hidden_size) load4(x[group], projected + row + element(group));
    }
    const float post = post_weight ? inverse_rms(x, hidden_size, eps, scratch) : 1.f;
#pragma unroll
    for (int group = 0; group < GROUPS; ++group) {
        if (element(group) >= hidden_size) continue;
        float r[4], w[4];
        float* to = residual + row + element(group);
        load4(r, to);
        if (post_weight) load4(w, post_weight + element(group));
#pragma unroll
        for (int i = 0; i < 4; ++i) x[group][i] = r[i] + (post_weight ? x[group][i] * post * w[i] : x[group][i]);
        store4(to, x[group]);
    }
    if (!next_weight) return;
    const float inverse = inverse_rms(x, hidden_size, eps, scratch);
    store_normed(x, inverse, next_weight, normed + row, hidden_size);
}
