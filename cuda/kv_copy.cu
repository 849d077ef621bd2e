// Copies whole blocks within the cache, for all layer slots: copy on write. The places behind the last token come along,
// though nobody has written them.
#include "simt.cuh"

KERNEL(ferrule_copy_blocks, (256),
       uint8_t* cache,    // (layers_per_block, num_blocks, block_bytes)
       const int* pairs,  // (num_copies, 2): source, destination
       int64_t num_blocks, int64_t block_bytes) {
    uint8_t* layer = cache + (int64_t)blockIdx.y * num_blocks * block_bytes;
    const uint8_t* from = layer + (int64_t)pairs[2 * blockIdx.x] * block_bytes;
    uint8_t* to = layer + (int64_t)pairs[2 * blockIdx.x + 1] * block_bytes;
    for (int64_t i = threadIdx.x * 16; i < block_bytes; i += blockDim.x * 16) copy16(to + i, from + i);
}
