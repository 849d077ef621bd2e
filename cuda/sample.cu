// From a row of logits to a token, as rust/engine/sample does it: the same weights, bit for bit. Masses are whole numbers,
// whose sums have no order: a weight of 1 is 2^44. One block per
// choice.
#include "simt.cuh"

constexpr int THREADS = 1024, WARPS = THREADS / 32;
constexpr int DIGITS = 3, BINS = 2048;

// What is asked of a row.
struct Request {
    float temperature, top_p, min_p;
    int top_k;
    uint64_t seed, position;
};

// (num_choices, 8): temperature, top_p, min_p (as float32), top_k, seed and position (two words each, the low one first).
DEVICE Request request_of(const uint32_t* requests) {
    const uint32_t* r = requests + (int64_t)blockIdx.x * 8;
    return Request{__uint_as_float(r[0]),         __uint_as_float(r[1]),       __uint_as_float(r[2]), (int)r[3],
                   r[4] | (uint64_t)r[5] << 32, r[6] | (uint64_t)r[7] << 32};
}

// 64 random bits of (seed, position): Philox-4x32 with 10 rounds (Salmon et al. 2011).
DEVICE uint64_t random_bits(uint64_t seed, uint64_t position) {
    uint32_t c[4] = {(uint32_t)position, (uint32_t)(position >> 32), 0, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
        c[0] = (uint32_t)(b >> 32) ^ c[1] ^ key[0], c[2] = (uint32_t)(a >> 32) ^ c[3] ^ key[1];
        c[1] = (uint32_t)b, c[3] = (uint32_t)a;
        key[0] += 0x9E3779B9u, key[1] += 0xBB67AE85u;
    }
    return c[0] | (uint64_t)c[1] << 32;
}

// exp(x) for x in [-87, 0], 0 for all else: the polynomial of Cephes, each operation rounded by itself.
DEVICE float exp_of(float x) {
    const float rounded = add_rounded(mul_rounded(x, LOG2_E), 12582912.f), n = add_rounded(rounded, -12582912.f);
    const float r = add_rounded(add_rounded(x, -mul_rounded(n, 0.6933594f)), -mul_rounded(n, -2.1219444e-4f));
    const float coefficients[5] = {1.3981999e-3f, 8.333452e-3f, 4.1665796e-2f, 1.6666665e-1f, 0.5f};
    float p = 1.9875691e-4f;
#pragma unroll
    for (int i = 0; i < 5; ++i) p = add_rounded(mul_rounded(p, r), coefficients[i]);
    const float y = add_rounded(add_rounded(mul_rounded(mul_rounded(p, r), r), r), 1.f);
    const float power = __uint_as_float((__float_as_uint(rounded) << 23) + (127u << 23));
    return x >= -87.f && x <= 0.f ? mul_rounded(y, power) : 0.f;
}

// Larger for larger numbers, and back.
DEVICE uint32_t key_of(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
DEVICE float logit_of(uint32_t key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

DEVICE bool is_finite(float x) { return (__float_as_uint(x) & 0x7f800000u) != 0x7f800000u; }

struct Row {
    const float* logits;
    int vocab_size;
    float max, temperature;

    DEVICE float weight(const Row& row, float logit) { return exp_of((logit - row.max) / row.temperature); }
    DEVICE uint64_t mass(const Row& row, float logit) { return (uint64_t)(weight(row, logit) * 17592186044416.f); }
};

DEVICE uint64_t shuffle_up(uint64_t x, int lanes) {
    const uint32_t lo = __shfl_up_sync(ALL_LANES, (uint32_t)x, lanes);
    return lo | (uint64_t)__shfl_up_sync(ALL_LANES, (uint32_t)(x >> 32), lanes) << 32;
}
DEVICE uint64_t shuffle_xor(uint64_t x, int lanes) {
    const uint32_t lo = __shfl_xor_sync(ALL_LANES, (uint32_t)x, lanes);
    return lo | (uint64_t)__shfl_xor_sync(ALL_LANES, (uint32_t)(x >> 32), lanes) << 32;
}
// The sum over this lane and those before it.
DEVICE uint64_t scan(uint64_t x) {
#pragma unroll
    for (int lanes = 1; lanes < 32; lanes *= 2) {
        const uint64_t before = shuffle_up(x, lanes);
        if ((int)threadIdx.x % 32 >= lanes) x += before;
    }
    return x;
}
DEVICE uint64_t warp_total(uint64_t x) {
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) x += shuffle_xor(x, lanes);
    return x;
}

// The sum over the block, for every thread. `sums` has a place per warp; it is free again at the end.
DEVICE uint64_t block_total(uint64_t x, uint64_t* sums) {
    x = warp_total(x);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    uint64_t total = 0;
    for (int warp = 0; warp < WARPS; ++warp) total += sums[warp];
    __syncthreads();
    return total;
}

// Where a set that is taken by falling logit (of equals the lowest id first) ends: it has all above `key`, and the first
// `ties` with that key.
struct Boundary {
    uint32_t key;
    int ties;
};

struct Scratch {
    uint64_t bins[BINS];
    uint64_t sums[WARPS];
    uint64_t above;
    uint32_t digit;
    float values[WARPS];
    int ids[WARPS];
};

// The amount that an element adds to a set: 1, or its mass.
template <bool BY_MASS>
DEVICE uint64_t amount(const Row& row, float logit) {
    if constexpr (BY_MASS) return Row::mass(row, logit);
    return 1;
}

// The first warp finds the digit at which the amounts from the highest bin down reach `needed`, and what lies above it.
DEVICE void find_digit(Scratch& scratch, uint64_t needed) {
    constexpr int OWN = BINS / 32;
    const int first = BINS - 1 - (int)threadIdx.x * OWN;
    uint64_t own = 0;
    for (int i = 0; i < OWN; ++i) own += scratch.bins[first - i];
    uint64_t sum = scan(own) - own;
    // In one lane.
    if (sum >= needed || sum + own < needed) return;
    int digit = first;
    while (sum + scratch.bins[digit] < needed) sum += scratch.bins[digit--];
    scratch.digit = digit, scratch.above = sum;
}

// The smallest set whose amounts reach `needed`, which all together do. Digit by digit of the key, the highest first.
template <bool BY_MASS>
DEVICE Boundary select(const Row& row, uint64_t needed, Scratch& scratch) {
    uint32_t prefix = 0;
    uint64_t at_key = 0;
#pragma unroll 1
    for (int i = 0; i < DIGITS; ++i) {
        const int shift = i == 0 ? 21 : i == 1 ? 10 : 0, bits = i == 2 ? 10 : 11;
        for (int bin = threadIdx.x; bin < BINS; bin += THREADS) scratch.bins[bin] = 0;
        __syncthreads();
        for (int id = threadIdx.x; id < row.vocab_size; id += THREADS) {
            const float logit = row.logits[id];
            const uint32_t key = key_of(logit);
            if (!is_finite(logit) || (i > 0 && key >> (shift + bits) != prefix)) continue;
            atomic_add(&scratch.bins[key >> shift & ((1u << bits) - 1)], amount<BY_MASS>(row, logit));
        }
        __syncthreads();
        if (threadIdx.x < 32) find_digit(scratch, needed);
        __syncthreads();
        prefix = prefix << bits | scratch.digit;
        needed -= scratch.above;
        at_key = scratch.bins[scratch.digit];
        __syncthreads();
    }
    // Equals have equal amounts.
    const uint64_t each = amount<BY_MASS>(row, logit_of(prefix));
    return Boundary{prefix, (int)((min(needed, at_key) + each - 1) / each)};
}

// The finite maximum, and the first id that has it; vocab_size if there is none.
DEVICE void find_best(const float* logits, int vocab_size, Scratch& scratch, float& best, int& best_id) {
    best = NEG_INF, best_id = vocab_size;
    for (int id = threadIdx.x; id < vocab_size; id += THREADS)
        if (is_finite(logits[id]) && logits[id] > best) best = logits[id], best_id = id;
    const auto keep = [&](float value, int id) {
        if (value > best || (value == best && id < best_id)) best = value, best_id = id;
    };
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const float value = __shfl_xor_sync(ALL_LANES, best, lanes);
        keep(value, __shfl_xor_sync(ALL_LANES, best_id, lanes));
    }
    if (threadIdx.x % 32 == 0) scratch.values[threadIdx.x / 32] = best, scratch.ids[threadIdx.x / 32] = best_id;
    __syncthreads();
    for (int warp = 0; warp < WARPS; ++warp) keep(scratch.values[warp], scratch.ids[warp]);
    __syncthreads();
}

// What may be drawn: all above the boundary, its first ties, and of these what weighs enough.
struct Kept {
    Boundary boundary;
    float least;

    // Lanes have neighbouring ids; `ties_before` counts those with the boundary's key before them, and goes on.
    DEVICE uint64_t mass(const Kept& kept, const Row& row, int id, int end, int& ties_before) {
        const float logit = id < end ? row.logits[id] : NEG_INF;
        const uint32_t key = key_of(logit);
        const bool is_tie = is_finite(logit) && key == kept.boundary.key;
        const uint32_t ties = __ballot_sync(ALL_LANES, is_tie);
        const int rank = ties_before + __popc(ties & ((1u << threadIdx.x % 32) - 1));
        ties_before += __popc(ties);
        const bool is_in = is_tie ? rank < kept.boundary.ties : is_finite(logit) && key > kept.boundary.key;
        return is_in && Row::weight(row, logit) >= kept.least ? Row::mass(row, logit) : 0;
    }
};

DEVICE int count_ties(const Kept& kept, const Row& row, int begin, int end) {
    int ties = 0;
    for (int base = begin; base < end; base += 32) {
        const int id = base + threadIdx.x % 32;
        const float logit = id < end ? row.logits[id] : NEG_INF;
        ties += __popc(__ballot_sync(ALL_LANES, is_finite(logit) && key_of(logit) == kept.boundary.key));
    }
    return ties;
}

// The token at which the masses, by id, pass a share of their sum that `bits` choose. Each warp has a stretch of ids.
DEVICE void draw(const Row& row, const Kept& kept, uint64_t bits, Scratch& scratch, int* token) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int stretch = (row.vocab_size + THREADS - 1) / THREADS * 32;
    const int begin = min(warp * stretch, row.vocab_size), end = min(begin + stretch, row.vocab_size);
    const int own_ties = count_ties(kept, row, begin, end);
    if (lane == 0) scratch.ids[warp] = own_ties;
    __syncthreads();
    int ties_before = 0;
    for (int other = 0; other < warp; ++other) ties_before += scratch.ids[other];
    uint64_t own = 0;
    int ties = ties_before;
    for (int base = begin; base < end; base += 32) own += Kept::mass(kept, row, base + lane, end, ties);
    own = warp_total(own);
    if (lane == 0) scratch.sums[warp] = own;
    __syncthreads();
    uint64_t before = 0, total = 0;
    for (int other = 0; other < WARPS; ++other) {
        if (other == warp) before = total;
        total += scratch.sums[other];
    }
    // The highest 53 of the bits are the share.
    const uint64_t target = __umul64hi(bits & ~0x7ffull, total);
    if (target < before || target >= before + own) return;
    ties = ties_before;
    for (int base = begin; base < end; base += 32) {
        const uint64_t mass = Kept::mass(kept, row, base + lane, end, ties), up_to = before + scan(mass);
        const uint32_t passed = __ballot_sync(ALL_LANES, up_to > target);
        if (passed) {
            if (lane == __ffs(passed) - 1) *token = base + lane;
            return;
        }
        before += warp_total(mass);
    }
}

KERNEL(ferrule_sample, (1024, 1),
       const float* logits,       // (num_rows, vocab_size)
       const int* rows,           // (num_choices,)
       const uint32_t* requests,  // (num_choices, 8), see request_of
       int* tokens,               // (num_choices,); -1 where no logit is finite
       int vocab_size) {
    SHARED(Scratch, shared, [1]);
    Scratch& scratch = shared[0];
    const Request request = request_of(requests);
    Row row{logits + (int64_t)rows[blockIdx.x] * vocab_size, vocab_size, 0.f, request.temperature};
    int best_id;
    find_best(row.logits, vocab_size, scratch, row.max, best_id);
    int* token = tokens + blockIdx.x;
    if (best_id == vocab_size || request.temperature == 0.f) {
        if (threadIdx.x == 0) *token = best_id == vocab_size ? -1 : best_id;
        return;
    }
    Kept kept{Boundary{0, vocab_size}, request.min_p};
    if (request.top_k > 0 && request.top_k < vocab_size) {
        uint64_t finite = 0;
        for (int id = threadIdx.x; id < vocab_size; id += THREADS) finite += is_finite(row.logits[id]);
        finite = block_total(finite, scratch.sums);
        kept.boundary = select<false>(row, min(finite, (uint64_t)request.top_k), scratch);
    }
    if (request.top_p < 1.f) {
        const Boundary boundary = kept.boundary;
        uint64_t total = 0;
        for (int id = threadIdx.x; id < vocab_size; id += THREADS) {
            const float logit = row.logits[id];
            if (is_finite(logit) && key_of(logit) > boundary.key) total += Row::mass(row, logit);
        }
        total = block_total(total, scratch.sums);
        if (boundary.key) total += boundary.ties * Row::mass(row, logit_of(boundary.key));
        const double wanted = (double)request.top_p * (double)total;
        const uint64_t floor = (uint64_t)wanted;
        const uint64_t needed = (double)floor < wanted ? floor + 1 : floor;
        kept.boundary = select<true>(row, min(max(needed, (uint64_t)1), total), scratch);
    }
    draw(row, kept, random_bits(request.seed, request.position), scratch, token);
}
