// Makes the arrays of a decode step those of the next one, in which the same sequences have one token more. One block.
#include "simt.cuh"

constexpr int BLOCK_SIZE = 16;

KERNEL(ferrule_advance_batch, (256),
       int* arrays,         // of the step before: those below are parts of it
       const int* changes,  // how many, then pairs: a place in arrays, and what it becomes
       int* positions,      // (num_seqs,)
       Queries* queries,    // (num_seqs,), of one each; none: padding, which stays
       int* slots,          // (num_seqs,), of the first KV group
       int* tables,         // (num_seqs, max_blocks), of the first KV group
       int num_seqs, int max_blocks, int num_groups,
       int stride) {  // from a group's slots and tables to the next one's
    const int num_changes = changes[0];
    for (int i = threadIdx.x; i < num_changes; i += blockDim.x) arrays[changes[1 + 2 * i]] = changes[2 + 2 * i];
    // Slots are in tables that have changed.
    __syncthreads();
    for (int seq = threadIdx.x; seq < num_seqs; seq += blockDim.x) {
        if (queries[seq].count == 0) continue;
        const int position = positions[seq] + 1;
        positions[seq] = position;
        queries[seq].context_len += 1;
        for (int group = 0; group < num_groups; ++group) {
            const int64_t at = (int64_t)group * stride;
            const int block = tables[at + (int64_t)seq * max_blocks + position / BLOCK_SIZE];
            slots[at + seq] = block * BLOCK_SIZE + position % BLOCK_SIZE;
        }
    }
}
