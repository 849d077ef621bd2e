// Copies whole blocks within the cache, for all layer slots: copy on write.
#include "simt.cuh"

KERNEL(ferrule_copy_blocks, (256),
       bf16* cache,       // (layers_per_block, num_blocks, block_elements)
       const int* pairs,  // (num_copies, 2): source, destination
       int64_t num_blocks, int64_t block_elements) {
    bf16* layer = cache + (int64_t)blockIdx.y * num_blocks * block_elements;
    const bf16* from = layer + (int64_t)pairs[2 * blockIdx.x] * block_elements;
    bf16* to = layer + (int64_t)pairs[2 * blockIdx.x + 1] * block_elements;
    for (int64_t i = threadIdx.x * 8; i < block_elements; i += blockDim.x * 8) store16(to + i, load16_streamed(from + i));
}
