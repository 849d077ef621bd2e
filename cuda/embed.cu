// residual[t] = table[tokens[t]] * scale. One block per token.
#include "simt.cuh"

KERNEL(ferrule_embed, (128),
       const int* tokens,  // (num_tokens,)
       const bf16* table,  // (vocab_size, hidden_size)
       float* residual,    // (num_tokens, hidden_size)
       float scale, int hidden_size) {
    const bf16* from = table + (int64_t)tokens[blockIdx.x] * hidden_size;
    float* to = residual + (int64_t)blockIdx.x * hidden_size;
    for (int i = threadIdx.x * 8; i < hidden_size; i += blockDim.x * 8) {
        float x[8];
        unpack8(x, load16_streamed(from + i));
        store_floats4(to + i, x[0] * scale, x[1] * scale, x[2] * scale, x[3] * scale);
        store_floats4(to + i + 4, x[4] * scale, x[5] * scale, x[6] * scale, x[7] * scale);
    }
}
