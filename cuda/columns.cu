// Activations in the order of a matrix's columns (act-order: groups are made of columns that lie apart).
#include "simt.cuh"

constexpr int MOST = 16384;

// out[t][j] = x[t][order[j]]. One block per token; the row is read in order and picked from in shared memory,
// where picks meet banks at random.
KERNEL(ferrule_order_columns, (256),
       const bf16* x,     // (num_tokens, width)
       const int* order,  // (columns,)
       bf16* out,         // (num_tokens, columns)
       int width, int columns) {
    SHARED(bf16, row, [MOST]);
    for (int i = threadIdx.x * 8; i < width; i += blockDim.x * 8)
        store16(row + i, load16(x + (int64_t)blockIdx.x * width + i));
    __syncthreads();
    for (int i = threadIdx.x * 2; i < columns; i += blockDim.x * 2) {
        const uint2 from = load8(order + i);
        const uint32_t pair = row[from.x].bits | (uint32_t)row[from.y].bits << 16;
        *reinterpret_cast<uint32_t*>(out + (int64_t)blockIdx.x * columns + i) = pair;
    }
}
