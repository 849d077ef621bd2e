// out (m, n) = x (m, k) . weight (n, k)^T for few rows: the time is that of reading the weights, once.
//
// A block makes 16 columns of out. The weight's rows are the mma's 16 rows, x's rows its 8 columns. Four warps take
// turns in k, 32 at a time. A lane's 16-byte load is 8 neighbours in k, which serve as the two pairs of two products:
// k is permuted alike in both operands, so sums do not change.
#include "simt.cuh"

template <int TILES, class Out>
DEVICE void skinny_gemm(const bf16* x, const bf16* weight, Out* out, int m, int n, int k) {
    SHARED(float, sums, [4][16][TILES * 8 + 1]);  // (warp, column of out, row of out)
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int n0 = blockIdx.x * 16;
    const bool low = n0 + g < n, high = n0 + g + 8 < n;
    const uint4 zero = {0, 0, 0, 0};
    float acc[TILES][4] = {};
#pragma unroll 4
    for (int at = warp * 32; at < k; at += 128) {
        const int column = at + t * 8;
        const bool inside = column < k;
        const uint4 w0 = low && inside ? load16_streamed(weight + (int64_t)(n0 + g) * k + column) : zero;
        const uint4 w1 = high && inside ? load16_streamed(weight + (int64_t)(n0 + g + 8) * k + column) : zero;
        const uint32_t a0[4] = {w0.x, w1.x, w0.y, w1.y}, a1[4] = {w0.z, w1.z, w0.w, w1.w};
#pragma unroll
        for (int tile = 0; tile < TILES; ++tile) {
            const int row = tile * 8 + g;
            const uint4 b = row < m && inside ? load16(x + (int64_t)row * k + column) : zero;
            mma_bf16(acc[tile], a0, b.x, b.y);
            mma_bf16(acc[tile], a1, b.z, b.w);
        }
    }
#pragma unroll
    for (int tile = 0; tile < TILES; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[warp][g + i / 2 * 8][tile * 8 + 2 * t + i % 2] = acc[tile][i];
    __syncthreads();
    for (int i = threadIdx.x; i < TILES * 8 * 16; i += 128) {
        const int row = i / 16, column = i % 16;
        if (row >= m || n0 + column >= n) continue;
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < 4; ++w) sum += sums[w][column][row];
        store_one(out + (int64_t)row * n + n0 + column, sum);
    }
}

#define SKINNY_GEMM(rows, tiles)                                                                              \
    KERNEL(ferrule_skinny_gemm_m##rows, (128), const bf16* x, const bf16* weight, bf16* out, int m, int n, int k) { \
        skinny_gemm<tiles>(x, weight, out, m, n, k);                                                          \
    }                                                                                                         \
    KERNEL(ferrule_skinny_gemm_f32_m##rows, (128), const bf16* x, const bf16* weight, float* out, int m, int n, int k) { \
        skinny_gemm<tiles>(x, weight, out, m, n, k);                                                          \
    }
SKINNY_GEMM(8, 1)
SKINNY_GEMM(16, 2)
SKINNY_GEMM(32, 4)
