// out (m, n) = x (m, k) . weight (n, k)^T for many rows. A block makes a tile of 128 x 128 with 8 warps (2 x 4, each
// 64 x 32), over stages of 32 in k that cp.async fills ahead.
#include "simt.cuh"

constexpr int TILE = 128, STAGE_K = 32, STAGES = 4, THREADS = 256;
constexpr int TILE_ELEMENTS = TILE * STAGE_K;

// Where 8 elements (chunk 0..3 of a row of 32) lie: rotated by the row, so that 8 rows of a chunk meet all banks.
DEVICE int swizzled(int row, int chunk) { return row * STAGE_K + (chunk ^ (row / 2 & 3)) * 8; }

// Starts the copy of rows first .. first + 128, columns at .. at + 32 of a matrix (rows, k); zeros outside.
DEVICE void fetch_tile(bf16* tile, const bf16* matrix, int first, int rows, int at, int k) {
#pragma unroll
    for (int i = threadIdx.x; i < TILE * 4; i += THREADS) {
        const int row = i / 4, chunk = i % 4, column = at + chunk * 8;
        const bool inside = first + row < rows && column < k;
        cp_async16(tile + swizzled(row, chunk), matrix + (inside ? (int64_t)(first + row) * k + column : 0), inside);
    }
}

// A warp's products of one stage: acc[i][j] is the tile of 16 rows at 16 i and 8 columns at 8 j.
DEVICE void multiply_stage(float (&acc)[4][4][4], const bf16* x, const bf16* weight, int warp_row, int warp_column) {
    const int lane = threadIdx.x % 32, matrix = lane / 8, row = lane % 8;
#pragma unroll
    for (int step = 0; step < STAGE_K / 16; ++step) {
        uint32_t a[4][4], b[2][4];
#pragma unroll
        for (int i = 0; i < 4; ++i)
            ldmatrix_x4(a[i], x + swizzled(warp_row + i * 16 + matrix % 2 * 8 + row, step * 2 + matrix / 2));
#pragma unroll
        for (int j = 0; j < 2; ++j)
            ldmatrix_x4(b[j], weight + swizzled(warp_column + j * 16 + matrix / 2 * 8 + row, step * 2 + matrix % 2));
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) mma_bf16(acc[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

DEVICE void store_pair(float* out, float a, float b, bool both) {
    out[0] = a;
    if (both) out[1] = b;
}
DEVICE void store_pair(bf16* out, float a, float b, bool both) {
    out[0] = to_bf16(a);
    if (both) out[1] = to_bf16(b);
}

template <class Out>
DEVICE void gemm(const bf16* x, const bf16* weight, Out* out, int m, int n, int k) {
    SHARED_DYNAMIC(bf16, stages);  // (STAGES, 2, TILE_ELEMENTS): x, then weight
    const int m0 = blockIdx.x * TILE, n0 = blockIdx.y * TILE, num_stages = (k + STAGE_K - 1) / STAGE_K;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int warp_row = warp / 4 * 64, warp_column = warp % 4 * 32;
    auto fetch = [&](int stage) {
        bf16* tile = stages + stage % STAGES * 2 * TILE_ELEMENTS;
        if (stage < num_stages) {
            fetch_tile(tile, x, m0, m, stage * STAGE_K, k);
            fetch_tile(tile + TILE_ELEMENTS, weight, n0, n, stage * STAGE_K, k);
        }
        cp_async_commit();
    };
    float acc[4][4][4] = {};
    for (int stage = 0; stage < STAGES - 1; ++stage) fetch(stage);
    for (int stage = 0; stage < num_stages; ++stage) {
        cp_async_wait<STAGES - 2>();
        // This stage has come for all, and all are done with the one that is fetched over.
        __syncthreads();
        fetch(stage + STAGES - 1);
        const bf16* tile = stages + stage % STAGES * 2 * TILE_ELEMENTS;
        multiply_stage(acc, tile, tile + TILE_ELEMENTS, warp_row, warp_column);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = m0 + warp_row + i * 16 + half * 8 + g;
            if (row >= m) continue;
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const int column = n0 + warp_column + j * 8 + 2 * t;
                const float *pair = acc[i][j] + 2 * half;
                if (column < n) store_pair(out + (int64_t)row * n + column, pair[0], pair[1], column + 1 < n);
            }
        }
}

KERNEL(ferrule_gemm, (256, 1), const bf16* x, const bf16* weight, bf16* out, int m, int n, int k) {
    gemm(x, weight, out, m, n, k);
}
KERNEL(ferrule_gemm_f32, (256, 1), const bf16* x, const bf16* weight, float* out, int m, int n, int k) {
    gemm(x, weight, out, m, n, k);
}
