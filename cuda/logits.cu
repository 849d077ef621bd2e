// What happens to logits (num_rows, vocab_size) before a token is chosen, and the choice of the largest.
#include "simt.cuh"

KERNEL(ferrule_softcap, (256), float* logits, int vocab_size, float cap) {
    float* row = logits + (int64_t)blockIdx.y * vocab_size;
    const float inverse = 1.f / cap;
    for (int i = 0; i < 4; ++i) {
        const int64_t column = (int64_t)blockIdx.x * 1024 + i * 256 + threadIdx.x;
        if (column < vocab_size) row[column] = cap * fast_tanh(row[column] * inverse);
    }
}

// Keeps the larger value, and of equal ones the first.
DEVICE void keep_better(float& value, int& index, float other, int other_index) {
    if (other > value || (other == value && other_index < index)) {
        value = other;
        index = other_index;
    }
}

DEVICE void warp_argmax(float& value, int& index) {
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) {
        const float other = __shfl_xor_sync(ALL_LANES, value, offset);
        const int other_index = __shfl_xor_sync(ALL_LANES, index, offset);
        keep_better(value, index, other, other_index);
    }
}

KERNEL(ferrule_argmax, (1024), const float* logits, int* tokens, int vocab_size) {
    SHARED(float, values, [32]);
    SHARED(int, indices, [32]);
    const float* row = logits + (int64_t)blockIdx.x * vocab_size;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, num_warps = blockDim.x / 32;
    float value = NEG_INF;
    int index = vocab_size;
    for (int i = threadIdx.x; i < vocab_size; i += blockDim.x) keep_better(value, index, row[i], i);
    warp_argmax(value, index);
    if (lane == 0) values[warp] = value, indices[warp] = index;
    __syncthreads();
    if (warp != 0) return;
    value = lane < num_warps ? values[lane] : NEG_INF;
    index = lane < num_warps ? indices[lane] : vocab_size;
    warp_argmax(value, index);
    if (lane == 0) tokens[blockIdx.x] = index < vocab_size ? index : 0;
}
