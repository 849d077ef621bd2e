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

// What a request wants of a token's logit.
struct Edit {
    int token;
    float bias;
    int count;  // in the output
    int flags;
};
constexpr int BANNED = 1, SEEN = 2;

// In the order and the roundings of rust/engine/sample. A block has 1024 columns of a row: bits of the mask that are 0
// forbid tokens, then come the edits of its columns.
KERNEL(ferrule_edit_logits, (256),
       float* logits,           // (num_rows, vocab_size)
       const uint32_t* masks,   // (num_rows, ceil(vocab_size / 32)) or null: all is allowed
       const int* starts,       // (num_rows + 1,): a row's edits, each token once
       const uint4* edits,      // (num_edits,): token, bias (float32), count in the output, flags (1: banned, 2: seen)
       const float* penalties,  // (num_rows, 3): repetition, frequency, presence
       int vocab_size) {
    float* row = logits + (int64_t)blockIdx.y * vocab_size;
    const int first = blockIdx.x * 1024, end = min(first + 1024, vocab_size);
    if (masks) {
        const uint32_t* mask = masks + (int64_t)blockIdx.y * ((vocab_size + 31) / 32);
        for (int column = first + threadIdx.x; column < end; column += blockDim.x)
            if (!(mask[column / 32] >> column % 32 & 1)) row[column] = NEG_INF;
        __syncthreads();
    }
    const float* p = penalties + (int64_t)blockIdx.y * 3;
    const float repetition = p[0], frequency = p[1], presence = p[2];
    for (int i = starts[blockIdx.y] + threadIdx.x; i < starts[blockIdx.y + 1]; i += blockDim.x) {
        const uint4 words = load16(edits + i);
        const Edit edit{(int)words.x, __uint_as_float(words.y), (int)words.z, (int)words.w};
        if (edit.token < first || edit.token >= end) continue;
        float x = add_rounded(row[edit.token], edit.bias);
        if (edit.flags & BANNED) x = NEG_INF;
        if (edit.flags & SEEN) {
            const float repeated = x > 0.f ? x / repetition : mul_rounded(x, repetition);
            x = add_rounded(repeated, -mul_rounded(frequency, (float)edit.count));
            x = add_rounded(x, edit.count > 0 ? -presence : -0.f);
        }
        row[edit.token] = x;
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
