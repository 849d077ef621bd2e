// Mixture of experts: which experts a token has, its rows in the order of experts (for ferrule_grouped_gemm), and back.
#include "simt.cuh"

constexpr int MAX_EXPERTS = 256, PER_LANE = MAX_EXPERTS / 32;

// Softmax over the experts, then the top_k largest (of equals the first), largest first. One warp per token.
KERNEL(ferrule_moe_route, (32),
       const float* router,  // (num_tokens, num_experts)
       int* experts,         // (num_tokens, top_k)
       float* weights,       // (num_tokens, top_k)
       int num_experts, int top_k,
       int normalize) {      // 1: a token's weights sum to 1
    const int lane = threadIdx.x, token = blockIdx.x;
    float x[PER_LANE], top = NEG_INF, sum = 0.f;
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) {
        const int expert = i * 32 + lane;
        x[i] = expert < num_experts ? router[(int64_t)token * num_experts + expert] : NEG_INF;
        top = fmaxf(top, x[i]);
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, lanes));
#pragma unroll
    for (int i = 0; i < PER_LANE; ++i) sum += fast_exp2((x[i] - top) * LOG2_E);
    sum = warp_sum(sum);
    float kept = 0.f, mine = 0.f;
    for (int k = 0; k < top_k; ++k) {
        float best = NEG_INF;
        int expert = MAX_EXPERTS;
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i)
            if (x[i] > best) best = x[i], expert = i * 32 + lane;
#pragma unroll
        for (int lanes = 16; lanes > 0; lanes /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, best, lanes);
            const int other_expert = __shfl_xor_sync(ALL_LANES, expert, lanes);
            if (other > best || (other == best && other_expert < expert)) best = other, expert = other_expert;
        }
#pragma unroll
        for (int i = 0; i < PER_LANE; ++i)
            if (i * 32 + lane == expert) x[i] = NEG_INF;
        const float weight = fast_exp2((best - top) * LOG2_E);
        kept += weight;
        if (lane == k) mine = weight;
        if (lane == 0) experts[(int64_t)token * top_k + k] = expert;
    }
    if (lane < top_k) weights[(int64_t)token * top_k + lane] = mine / (normalize ? kept : sum);
}

// A counting sort, stable: a thread per expert walks all entries. One block.
KERNEL(ferrule_moe_sort, (256),
       const int* experts,  // (num_entries,): entry t * top_k + k is choice k of token t
       int* starts,         // (num_experts + 1,): where an expert's rows begin
       int* places,         // (num_entries,): the row of each entry
       int num_entries, int num_experts) {
    SHARED(int, counts, [MAX_EXPERTS]);
    const int expert = threadIdx.x;
    int count = 0;
    for (int i = 0; i < num_entries; ++i) count += experts[i] == expert;
    counts[expert] = count;
    __syncthreads();
    int row = 0;
    for (int before = 0; before < expert; ++before) row += counts[before];
    if (expert < num_experts) starts[expert] = row;
    if (expert == num_experts - 1) starts[num_experts] = row + count;
    for (int i = 0; i < num_entries; ++i)
        if (experts[i] == expert) places[i] = row++;
}

// sorted[places[entry]] = x[entry / top_k]. One block per entry.
KERNEL(ferrule_moe_gather, (128),
       const bf16* x,      // (num_tokens, width)
       const int* places,  // (num_entries,)
       bf16* sorted,       // (num_entries, width)
       int width, int top_k) {
    const bf16* from = x + (int64_t)(blockIdx.x / top_k) * width;
    bf16* to = sorted + (int64_t)places[blockIdx.x] * width;
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8) store16(to + i, load16(from + i));
}

// out[t] = the sum over k of weights[t][k] * sorted[places[t][k]], in this order. 4 elements a thread.
KERNEL(ferrule_moe_combine, (128),
       const bf16* sorted,    // (num_entries, width)
       const int* places,     // (num_tokens, top_k)
       const float* weights,  // (num_tokens, top_k)
       bf16* out,             // (num_tokens, width)
       int width, int top_k) {
    const int column = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (column >= width) return;
    float sum[4] = {};
    for (int k = 0; k < top_k; ++k) {
        const int64_t entry = (int64_t)blockIdx.y * top_k + k;
        float x[4];
        load4(x, sorted + (int64_t)places[entry] * width + column);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] += weights[entry] * x[i];
    }
    store4(out + (int64_t)blockIdx.y * width + column, sum);
}
