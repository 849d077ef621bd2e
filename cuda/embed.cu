// residual[t] = table[tokens[t]] * scale. One block per token.
#include "simt.cuh"

KERNEL(ferrule_embed, (128),
       const int* tokens,  // (num_tokens,)
       const bf16* table,  // (vocab_size, hidden_size)
       float* residual,    // (num_tokens, hidden_size)
       float scale, int hidden_size) {
    const bf16* from = table + (int64_t)tokens[blockIdx.x] * hidden_size;
    float* to = residual + (int64_t)blockIdx.x * hidden_size;
    for (int i = threadIdx.x * 4; i < hidden_size; i += blockDim.x * 4) {
        float x[4];
        load4(x, from + i);
#pragma unroll
        for (int c = 0; c < 4; ++c) x[c] *= scale;
        store4(to + i, x);
    }
}
