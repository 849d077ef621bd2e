// residual[t] = table[token of t] * scale. One block per token. A token that the host does not know is one of those chosen last.
#include "simt.cuh"

template <class Number>
DEVICE void embed(const int* tokens,    // (num_tokens,)
                  const int* sources,   // (num_tokens,): which of the chosen it is; negative: it is in `tokens`
                  const int* chosen,    // -1 where none could be chosen
                  const Number* table,  // (vocab_size, hidden_size)
                  float* residual,      // (num_tokens, hidden_size)
                  float scale, int hidden_size) {
    const int source = sources[blockIdx.x];
    const int token = source < 0 ? tokens[blockIdx.x] : max(chosen[source], 0);
    const Number* from = table + (int64_t)token * hidden_size;
    float* to = residual + (int64_t)blockIdx.x * hidden_size;
    for (int i = threadIdx.x * 4; i < hidden_size; i += blockDim.x * 4) {
        float x[4];
        load4(x, from + i);
#pragma unroll
        for (int c = 0; c < 4; ++c) x[c] *= scale;
        store4(to + i, x);
    }
}

#define EMBED(form, Number)                                                                                          \
    KERNEL(ferrule_embed##form, (128), const int* tokens, const int* sources, const int* chosen, const Number* table, \
           float* residual, float scale, int hidden_size) {                                                          \
        embed(tokens, sources, chosen, table, residual, scale, hidden_size);                                         \
    }
EMBED(, bf16)
EMBED(_f16, f16)
